"""What cfexplain doctor looks at."""
