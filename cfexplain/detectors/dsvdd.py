"""Deep SVDD (Ruff et al., 2018): squared distance to a fixed centre, learned from normal images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.detectors.base import distance_log_probs, LearnedDetectorSpec, LogProbs
from cfexplain.lazy import Tensor

QUANTILE = 0.95  # the score is 0.5 at this quantile of the held-out normals' distances


@dataclass(frozen=True, kw_only=True)
class Dsvdd(LearnedDetectorSpec):
    """phi(x) = 1 - exp(-|f(x) - c|^2 / tau), tau calibrated on held-out normals."""

    needs_exposure = False
    has_bias = False

    def losses(self, outputs: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
        return squared_distances(outputs, centre)

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return distance_log_probs(squared_distances(outputs, centre) / scale)

    def calibrated_scale(self, outputs: Tensor, centre: Tensor) -> float:
        return squared_distances(outputs, centre).double().quantile(QUANTILE).item() / math.log(2)


def squared_distances(embeddings: Tensor, centre: Tensor) -> Tensor:
    """(N, D), (D,) -> (N,)."""
    return (embeddings - centre).square().sum(dim=1)
