"""One's own detector: a network that is trained already, as a file or as a function that makes it.

The config says what the network expects and what it gives. Direction and scale of its score are found from held-out
normal images when a run takes it over (calibration.py), and stay with the run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from cfexplain.checks import check_at_least
from cfexplain.detectors.base import ScoringSpec
from cfexplain.detectors.external.sources import AnomalibScore, call_factory, copy_file, read_network
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import ConfigError, DataError
from cfexplain.lazy import F, nn, Tensor, torch
from cfexplain.types import ImageShape

LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue (ITU-R BT.601)
NUM_PROBES = 4
MIN_PROBABILITY = 1e-7  # beyond it float32 has no logit
COPY = "external-model.pt"  # the run's own copy of the file, beside its checkpoints
FACTORY = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


class Kind(Enum):
    plain = "plain"
    anomalib = "anomalib"


class HigherIs(Enum):
    auto = "auto"
    anomalous = "anomalous"
    normal = "normal"


class Score(Enum):
    number = "number"
    probability = "probability"


@dataclass(frozen=True, kw_only=True)
class External(ScoringSpec):
    """The score of a network that was trained elsewhere, calibrated as calibration.py says."""

    path: str | None
    factory: str | None
    kind: Kind
    sha256: str | None
    height: int | None
    width: int | None
    channels: int | None
    value_range: tuple[float, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    output: str | None
    class_index: int | None
    score: Score
    batch_size: int
    higher_is: HigherIs

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
        self._check_input()

    def _check_input(self) -> None:
        check_at_least(self, height=1, width=1, class_index=0, batch_size=1)
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width: give both or neither")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1, 3 or null, got {self.channels}")
        if len(self.value_range) != 2 or self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range must be [black, white], like [0,1], got {list(self.value_range)}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: give both or neither")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in {1, self.channels or len(values)}:
                raise ValueError(f"{name} must have 1 or {self.channels} values, got {len(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be > 0, got {list(self.std)}")

    @property
    def source(self) -> str:
        return self.path or f"detector.factory={self.factory}"

    def check_allowed(self, allow_custom_code: bool) -> None:
        if self.factory is not None and not allow_custom_code:
            raise ConfigError(
                f"detector.factory={self.factory} runs code from outside cfexplain, and a config must not do that "
                "unasked. If you trust it, add allow_custom_code=true"
            )

    def build_network(self, encoder: EncoderSpec, image_shape: ImageShape) -> nn.Module:
        if self.path is not None:
            return ExternalNetwork(self, read_network(Path(self.path).expanduser(), self.sha256))
        network = call_factory(self.factory)
        if self.kind is Kind.anomalib:
            network = AnomalibScore(network, self.source)
        return ExternalNetwork(self, network)

    def copy_files(self, folder: Path) -> None:
        if self.path is not None:
            copy_file(Path(self.path).expanduser(), folder / COPY, self.sha256)

    def with_files_in(self, folder: Path) -> External:
        if self.path is None:
            return self
        if not (folder / COPY).is_file():
            raise DataError(
                f"no {folder / COPY}, the run's own copy of {self.path}; put that file there, or train again"
            )
        return replace(self, path=str(folder / COPY))


class ExternalNetwork(nn.Module):
    """Preprocessing, the network, and its score picked out. It stays in eval mode, whatever it is asked.

    probe: (NUM_PROBES,) logits of fixed images when it was taken over, by which a changed network is known.
    """

    probe: Tensor
    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, spec: External, network: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        for name, values in (("mean", spec.mean or (0.0,)), ("std", spec.std or (1.0,)), ("luma", LUMA)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.register_buffer("probe", torch.zeros(NUM_PROBES))
        try:
            network.eval()
        except NotImplementedError:  # a torch.export program is what it was exported as
            pass

    def train(self, mode: bool = True) -> ExternalNetwork:
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, 1) float32: a score before direction and calibration, not saturated."""
        parts = [images] if torch.is_grad_enabled() else images.split(self.spec.batch_size)
        return torch.cat([self.unsaturated(self.raw(part)) for part in parts]).unsqueeze(1)

    def raw(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N,) or, with a class index, (N, classes), as the network gives them."""
        return self.picked(self.network(self.prepared(images)), len(images))

    def prepared(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> what the network expects; every step lets the gradient through."""
        spec, prepared = self.spec, (images + 1) / 2
        if spec.channels == 3 and images.shape[1] == 1:
            prepared = prepared.expand(-1, 3, -1, -1)
        elif spec.channels == 1 and images.shape[1] == 3:
            prepared = (prepared * self.luma).sum(dim=1, keepdim=True)
        if spec.height is not None and images.shape[2:] != (spec.height, spec.width):
            prepared = F.interpolate(prepared, (spec.height, spec.width), mode="bilinear", antialias=True)
        black, white = spec.value_range
        return (black + (white - black) * prepared - self.mean) / self.std

    def picked(self, output: Any, num_images: int) -> Tensor:
        """The scores out of whatever the network gave."""
        source = self.spec.source
        values = _named(output)
        if values is not None:
            given = [key for key, value in values.items() if value is not None]
            name = given[0] if self.spec.output is None and len(given) == 1 else self.spec.output
            if name not in given:
                wrong = "detector.output is not set" if name is None else f"detector.output={name} is none of them"
                raise ConfigError(f"{source} gives {len(given)} values ({', '.join(given)}), and {wrong}: name one")
            output = values[name]
        elif self.spec.output is not None:
            raise ConfigError(f"detector.output={self.spec.output}, but {source} gives one value; leave it out")
        if not isinstance(output, Tensor):
            raise DataError(f"{source} gives {type(output).__name__} where a tensor of scores is wanted; set "
                            "detector.output to the key of the score")
        return self._shaped(output, num_images)

    def _shaped(self, output: Tensor, num_images: int) -> Tensor:
        source, shape, index = self.spec.source, tuple(output.shape), self.spec.class_index
        if not shape or shape[0] != num_images:
            raise DataError(f"{source} gives values of shape {shape} to {num_images} images, wanted ({num_images},), "
                            f"({num_images}, 1) or ({num_images}, classes); let it keep the batch dimension first")
        if index is None and output.numel() == num_images:
            return output.reshape(num_images)
        if index is None and len(shape) == 2:
            raise ConfigError(f"{source} gives {shape[1]} values an image: set detector.class_index to that of the "
                              "anomalous class")
        if index is None:
            raise DataError(f"{source} gives values of shape {shape}, wanted (N,) or (N, 1); a map of scores has to "
                            "become one number an image, like its maximum, before the model is saved")
        if len(shape) != 2 or shape[1] < 2:
            raise ConfigError(f"detector.class_index={index} wants (N, classes), but {source} gives values of shape "
                              f"{shape}; leave it out")
        if index >= shape[1]:
            raise ConfigError(f"detector.class_index={index}, but {source} gives {shape[1]} classes, from 0")
        return output

    def unsaturated(self, raw: Tensor) -> Tensor:
        """What `raw` gives -> (N,) float32 on an open scale: a number as it is, else a logit."""
        raw, index = raw.float(), self.spec.class_index
        if self.spec.score is Score.probability:
            share = raw if index is None else raw[:, index]
            return share.clamp_min(MIN_PROBABILITY).log() - (1 - share).clamp_min(MIN_PROBABILITY).log()
        if index is None:
            return raw
        others = torch.cat([raw[:, :index], raw[:, index + 1 :]], dim=1)
        return raw[:, index] - others.logsumexp(dim=1)


def _named(output: Any) -> dict[str, Any] | None:
    """Several values by the names that detector.output may use; None where the output is a single value."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple | list):
        return dict(zip(getattr(output, "_fields", map(str, range(len(output)))), output, strict=True))
    if isinstance(output, Tensor) or not hasattr(output, "__dict__"):
        return None
    return dict(vars(output))
