"""Datasets: one file each, from a spec to Splits."""
