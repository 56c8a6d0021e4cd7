"""Trained runs side by side on the same images."""
