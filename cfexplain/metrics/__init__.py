"""Metrics: one file each, holding a pure function and its spec."""
