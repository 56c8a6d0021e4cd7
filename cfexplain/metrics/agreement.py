"""Do runs, or readers, say the same of the same things, and more often than by chance?"""

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


def krippendorffs_alpha(answers: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal data (Krippendorff, 2011): 1 always the same, 0 as often as by chance.

    answers: (N, readers) int, row i of thing i; below 0 where a reader says nothing. A thing with one answer counts for
    nothing. None where no thing has two answers, or all answers are the same: then there is no chance to compare with.
    """
    values = np.unique(answers[answers >= 0])
    counts = (answers[:, :, None] == values).sum(axis=1)  # (N, values)
    counts = counts[counts.sum(axis=1) > 1]
    sizes, totals = counts.sum(axis=1), counts.sum(axis=0)  # of answers: a thing's, (N',); a value's, (values,)
    num_answers = totals.sum()
    if (totals == num_answers).any() or num_answers == 0:
        return None
    # Ordered pairs of different answers: within a thing, each answer paired once in the mean; and among all answers.
    observed = ((sizes**2 - (counts**2).sum(axis=1)) / (sizes - 1)).sum() / num_answers
    expected = (num_answers**2 - (totals**2).sum()) / (num_answers * (num_answers - 1))
    return float(1 - observed / expected)
