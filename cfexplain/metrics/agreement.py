"""Do runs give the same verdicts on the same things, and more often than by chance?"""

from __future__ import annotations

import numpy as np


def agreement(verdicts: np.ndarray) -> float:
    """Share of things of which all runs say the same. verdicts: (N, runs), row i of thing i."""
    return float((verdicts == verdicts[:, :1]).all(axis=1).mean())


def cohens_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Cohen's kappa of two (N,) bool verdicts: 1 always the same, 0 as often as by chance.

    None where both say the same of everything: then there is no chance to compare with.
    """
    observed = (first == second).mean()
    expected = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return None if expected == 1 else float((observed - expected) / (1 - expected))
