"""Binary classifier against outlier exposure (Hendrycks et al., 2019): the logit is the score."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import LearnedDetectorSpec, log_sigmoid, LogProbs
from cfexplain.lazy import Tensor


@dataclass(frozen=True, kw_only=True)
class Bce(LearnedDetectorSpec):
    """A classifier of normal against exposure; embedding_dim is not used for its single logit."""

    needs_exposure = True

    @property
    def output_dim(self) -> int:
        return 1

    def losses(self, outputs: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
        return bce_losses(outputs[:, 0], labels)

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return LogProbs(*bce_log_probs(outputs[:, 0]))


def bce_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each sample: (N,) logits, (N,) labels 0/1 -> (N,)."""
    log_anomalous, log_normal = bce_log_probs(logits)
    return -(labels * log_anomalous + (1 - labels) * log_normal)


def bce_log_probs(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(log sigmoid(l), log sigmoid(-l)), finite for every finite logit."""
    return log_sigmoid(logits), log_sigmoid(-logits)
