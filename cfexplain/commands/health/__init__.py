"""The health check: what cfexplain doctor looks at."""
