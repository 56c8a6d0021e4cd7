"""cfexplain: why did the detector flag this image? Look at what it would be if it were normal."""
