"""Hypersphere classifier (Ruff et al., 2021): normals near the origin, outlier exposure away from it."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import distance_log_probs, LearnedDetectorSpec, LogProbs
from cfexplain.lazy import Tensor


@dataclass(frozen=True, kw_only=True)
class Hsc(LearnedDetectorSpec):
    """phi(x) = 1 - exp(-h(x)) with the pseudo-Huber distance h of the embedding."""

    needs_exposure = True

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return distance_log_probs((outputs.square().sum(dim=1) + 1).sqrt() - 1)
