"""A detector of one's own, trained elsewhere: read, checked, calibrated."""
