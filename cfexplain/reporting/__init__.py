"""Everything that is printed, drawn or written for a person."""
