"""Bootstrap intervals that resample source images: what belongs to one source (its K counterfactuals) goes together."""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def with_interval(key: str, value: float, resampled: np.ndarray) -> dict[str, float]:
    """The value under its key, and the 95 % percentile interval of its (B,) resampled values under <key>_low, _high."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {key: float(value), f"{key}_low": float(low), f"{key}_high": float(high)}


def share_with_interval(
    key: str, hits: np.ndarray, seed: int, num_resamples: int, among: np.ndarray | None = None
) -> dict[str, float]:
    """The share of hits and its interval, resampling sources (rows).

    hits:  (N, ...) bool or number, row i from source i.
    among: (N, ...) bool of the same shape, the cases that count; all where None.
    """
    among = np.ones(hits.shape) if among is None else among.astype(float)
    numerators = (hits * among).reshape(len(hits), -1).sum(axis=1)  # (N,)
    denominators = among.reshape(len(hits), -1).sum(axis=1)  # (N,)
    assert denominators.sum() > 0, "a share of nothing"
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(num_resamples):
        counts = resample_counts(len(hits), rng)
        if total := counts @ denominators:  # a resample without any case says nothing
            resampled.append(counts @ numerators / total)
    return with_interval(key, numerators.sum() / denominators.sum(), np.array(resampled))


def shares_of_concepts(
    key: str, hits: np.ndarray, seed: int, num_resamples: int, among: np.ndarray | None = None
) -> dict[str, float]:
    """The share of hits (N, ..., K) with its interval, and under <key>_concept_<k> that of each concept."""
    values = share_with_interval(key, hits, seed, num_resamples, among)
    for concept in range(hits.shape[-1]):
        counted = hits[..., concept] if among is None else hits[..., concept][among[..., concept]]
        values[f"{key}_concept_{concept}"] = float(counted.mean())
    return values


def resample_counts(size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `size` things is drawn in `size` draws with replacement, (size,) int."""
    return np.bincount(rng.integers(size, size=size), minlength=size)
