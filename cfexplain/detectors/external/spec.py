"""One's own detector: a network that is trained already, as a file or as a function that makes it.

The config says what the network expects and what it gives. Direction and scale of its score are found from held-out
normal images when a run takes it over (calibration.py), and stay with the run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from cfexplain.detectors.base import DetectorSpec, LearnedDetectorSpec, LogProbs, sigmoid_log_probs
from cfexplain.detectors.external.network import AnomalibScore, ExternalNetwork, NetworkInterface
from cfexplain.detectors.external.sources import call_factory, copy_file, read_network
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import ConfigError, DataError
from cfexplain.lazy import nn, Tensor
from cfexplain.types import ImageShape

LINEAR_UP_TO = 10.0
COPY = "external-model.pt"  # the run's own copy of the file, beside its checkpoints
FACTORY = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


class Kind(Enum):
    plain = "plain"
    anomalib = "anomalib"


class HigherIs(Enum):
    auto = "auto"
    anomalous = "anomalous"
    normal = "normal"


@dataclass(frozen=True, kw_only=True)
class External(NetworkInterface, DetectorSpec):
    """phi(x) = sigmoid(l), l = (s(x) - centre) / scale with s the network's score, calibrated as calibration.py says.

    Beyond |l| = 10, where phi is 0 or 1 to four digits, l grows with the logarithm: a score may have any tail. What the
    network expects and gives is declared in NetworkInterface.
    """

    needs_exposure = False
    is_trained = False

    path: str | None
    factory: str | None
    kind: Kind
    sha256: str | None
    higher_is: HigherIs
    stand_in: LearnedDetectorSpec

    def __post_init__(self) -> None:
        if (self.path is None) == (self.factory is None):
            raise ValueError(
                "path or factory: give one of them, a TorchScript or torch.export file as detector.path=model.pt, or "
                "a function as detector.factory=module:function allow_custom_code=true"
            )
        if self.factory is not None and not re.fullmatch(FACTORY, self.factory):
            raise ValueError(f"factory must be module:function, got {self.factory!r}")
        if self.kind is Kind.anomalib and self.factory is None:
            raise ValueError("kind=anomalib is for a detector.factory that returns the model; a file is kind=plain")
        super().__post_init__()

    @property
    def source(self) -> str:
        return self.path or f"detector.factory={self.factory}"

    def check_allowed(self, allow_custom_code: bool) -> None:
        if self.factory is not None and not allow_custom_code:
            raise ConfigError(
                f"detector.factory={self.factory} runs code from outside cfexplain, and a config must not do that "
                "unasked. If you trust it, add allow_custom_code=true"
            )

    @property
    def output_dim(self) -> int:
        return 1

    @property
    def second(self) -> LearnedDetectorSpec:
        return self.stand_in

    def build_network(self, encoder: EncoderSpec, image_shape: ImageShape) -> nn.Module:
        if self.path is not None:
            return ExternalNetwork(self, read_network(Path(self.path), self.sha256))
        network = call_factory(self.factory)
        if self.kind is Kind.anomalib:
            network = AnomalibScore(network, self.source)
        return ExternalNetwork(self, network)

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return sigmoid_log_probs(compressed((outputs[:, 0] - centre[0]) / scale))

    def copy_files(self, folder: Path) -> None:
        if self.path is not None:
            copy_file(Path(self.path), folder / COPY, self.sha256)

    def with_files_in(self, folder: Path) -> External:
        if self.path is None:
            return self
        if not (folder / COPY).is_file():
            raise DataError(
                f"no {folder / COPY}, the run's own copy of {self.path}; put that file there, or train again"
            )
        return replace(self, path=str(folder / COPY))


def compressed(logits: Tensor) -> Tensor:
    """l up to |l| = 10, from there 10 (1 + log(|l| / 10)) with its sign: smooth, increasing, nowhere flat."""
    size = logits.abs().clamp_min(LINEAR_UP_TO) / LINEAR_UP_TO
    return logits / size * (1 + size.log())
