"""Does the generator reach the score it was asked for? Rank correlation of wanted and reached score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.errors import ConfigError
from cfexplain.lazy import stats
from cfexplain.metrics.base import MetricInputs, MetricSpec, tell_reader


def alpha_correlation(logits: np.ndarray) -> float:
    """Spearman correlation of alpha and logit, pooled over images and concepts, as a share of the largest possible one.

    Alphas are few and so tied: with two bins the correlation itself cannot exceed 0.866. The largest is that of the
    same logits in the order of the alphas.
    logits: (N, A, K), alpha rising along A. The logit orders images as the score does, but does not saturate.
    """
    alphas, logits = np.broadcast_to(np.arange(logits.shape[1])[None, :, None], logits.shape).ravel(), logits.ravel()
    return spearman(alphas, logits) / spearman(np.sort(alphas), np.sort(logits))


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two (N,) arrays. ValueError for NaN, and for a constant: it has no order."""
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("cannot rank NaN")
    first, second = (ranks - ranks.mean() for ranks in (stats.rankdata(first), stats.rankdata(second)))
    spread = np.sqrt((first**2).sum() * (second**2).sum())
    if spread == 0:
        raise ValueError("a constant has no rank correlation")
    return float((first * second).sum() / spread)


@dataclass(frozen=True, kw_only=True)
class Alpha(MetricSpec):
    """alpha_correlation over the alpha bins."""

    meanings = {
        "alpha_correlation": ("wanted vs reached score, 1 = all in order", "1"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        logits = inputs.explanations.logits.numpy()
        if logits.shape[1] < 2:
            raise ConfigError("metric alpha needs a run with at least 2 alpha bins, and this has 1. Leave alpha out.")
        if np.ptp(logits) == 0:
            tell_reader("alpha_correlation left out: all edited images score the same")
            return {}
        return {"alpha_correlation": alpha_correlation(logits)}
