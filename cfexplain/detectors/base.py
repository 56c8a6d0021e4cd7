"""What a detector is: a spec (values, loss and score formulas) and one network module that carries them.

A detector file needs no torch at import: its formulas work on the tensors they are given. `build_detector` joins
spec and encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogProbs:
    """A score in log space: (N,) log phi and (N,) log(1 - phi), exact where phi itself would round to 0 or 1."""

    log_anomalous: Tensor
    log_normal: Tensor

    @property
    def score(self) -> Tensor:
        """phi, (N,) in [0, 1]."""
        return self.log_anomalous.exp()

    @property
    def logit(self) -> Tensor:
        """log phi - log(1 - phi), (N,): a monotone score that does not saturate; for AuROC, thresholds and matching."""
        return self.log_anomalous - self.log_normal


@dataclass(frozen=True, kw_only=True)
class DetectorSpec(ABC):
    """Values and formulas of a detector.

    embedding_dim: size of the encoder's output.
    steps, batch_size, learning_rate, weight_decay: Adam; the rate falls tenfold after 60 % and 85 % of the steps.
    """

    needs_exposure: ClassVar[bool]
    has_bias: ClassVar[bool] = True  # False: no biases and an affine-free batch norm, against collapse

    embedding_dim: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "steps", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def output_dim(self) -> int:
        """Size of the encoder's output, 1 where it is a logit."""
        return self.embedding_dim

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
        """(N, D) encoder outputs, (N,) labels 0/1, (D,) centre -> (N,) losses."""

    @abstractmethod
    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        """(N, D) encoder outputs, (D,) centre and the calibrated scale () -> log phi, log(1 - phi)."""

    def calibrated_scale(self, outputs: Tensor, centre: Tensor) -> float:
        """The scale that `log_probs` divides by, from the outputs of held-out normals; 1 where none is needed."""
        return 1.0
