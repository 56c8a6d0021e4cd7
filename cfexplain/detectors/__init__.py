"""Anomaly detectors: one file each, holding spec, loss and score."""
