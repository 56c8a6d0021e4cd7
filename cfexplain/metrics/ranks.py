"""Ranks with ties, and Spearman's correlation of them."""

from __future__ import annotations

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """(N,) numbers -> (N,) float64 ranks 1..N; equal numbers share the mean of their ranks."""
    values = np.asarray(values)
    if np.isnan(values).any():
        raise ValueError("cannot rank NaN")
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()  # the highest rank of each distinct number
    return (last - (counts - 1) / 2)[places]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two (N,) arrays. ValueError where one is constant: it has no order."""
    first, second = average_ranks(first), average_ranks(second)
    first, second = first - first.mean(), second - second.mean()
    spread = np.sqrt((first**2).sum() * (second**2).sum())
    if spread == 0:
        raise ValueError("a constant has no rank correlation")
    return float((first * second).sum() / spread)
