"""A training in several processes: which one this is, one of them, and those that are watched."""
