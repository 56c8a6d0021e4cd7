"""Binary classifier against outlier exposure (Hendrycks et al., 2019): the logit is the score."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import LearnedDetectorSpec, LogProbs, sigmoid_log_probs
from cfexplain.lazy import Tensor


@dataclass(frozen=True, kw_only=True)
class Bce(LearnedDetectorSpec):
    """A classifier of normal against exposure; embedding_dim is not used for its single logit."""

    needs_exposure = True

    @property
    def output_dim(self) -> int:
        return 1

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return sigmoid_log_probs(outputs[:, 0])
