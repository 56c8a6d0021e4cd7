"""Hypersphere classifier (Ruff et al., 2021): normals near the origin, outlier exposure away from it."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import LearnedDetectorSpec, LogProbs
from cfexplain.lazy import Tensor


@dataclass(frozen=True, kw_only=True)
class Hsc(LearnedDetectorSpec):
    """phi(x) = 1 - exp(-h(x)) with the pseudo-Huber distance h of the embedding."""

    needs_exposure = True

    def losses(self, outputs: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
        return hsc_losses(outputs, labels)

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return LogProbs(*hsc_log_probs(outputs))


def hsc_losses(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Hypersphere classification loss of each sample.

    embeddings: (N, D) float, hypersphere centred at the origin.
    labels:     (N,) int, 0 normal, 1 anomalous.
    returns:    (N,) float, >= 0.
    """
    log_anomalous, log_normal = hsc_log_probs(embeddings)
    return -log_normal.where(labels == 0, log_anomalous)


def hsc_log_probs(embeddings: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(log(1 - exp(-h)), -h), each (N,); eps bounds the first one at the centre, where it is log 0."""
    distances = (embeddings.square().sum(dim=1) + 1).sqrt() - 1  # pseudo-Huber, (N,)
    return distances.clamp_min(eps).neg().expm1().neg().log(), -distances
