"""Outlier exposure: images that are surely not normal, one source per file."""
