"""A network of somebody else between images as they are here and one raw score each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cfexplain.checks import check_at_least
from cfexplain.errors import ConfigError, DataError
from cfexplain.lazy import F, nn, Tensor, torch

LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue (ITU-R BT.601)
NUM_PROBES = 4
MIN_PROBABILITY = 1e-7  # beyond it float32 has no logit


class Score(Enum):
    number = "number"
    probability = "probability"


@dataclass(frozen=True, kw_only=True)
class NetworkInterface(ABC):
    """The part of detector=external that ExternalNetwork goes by."""

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

    def __post_init__(self) -> None:
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
    @abstractmethod
    def source(self) -> str:
        """Where the network comes from, for messages."""


class ExternalNetwork(nn.Module):
    """Preprocessing, the network, and its score picked out. It stays in eval mode, whatever it is asked.

    probe: (NUM_PROBES,) logits of fixed images when it was taken over, by which a changed network is known.
    """

    probe: Tensor
    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, spec: NetworkInterface, network: nn.Module) -> None:
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


class AnomalibScore(nn.Module):
    """A model of anomalib (Akcay et al., 2022) as a network that lets gradients through.

    Most of its models compute features under torch.no_grad, so nothing could be learnt from their score; here that
    switch is out of order while they run. Of a whole anomalib model its pre-processor and its torch model are taken;
    the post-processor is left out, for it clamps scores to [0, 1], and what is clamped has no gradient.
    """

    def __init__(self, model: nn.Module, source: str) -> None:
        super().__init__()
        is_whole = hasattr(model, "post_processor")  # Lightning's module around the torch model
        self.pre_processor = getattr(model, "pre_processor", None) if is_whole else None
        self.model = model.model if is_whole else model
        self.source = source

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N,): pred_score or, where a model gives none, the maximum of anomaly_map."""
        with _gradients_kept():
            output: Any = self.model(images if self.pre_processor is None else self.pre_processor(images))
        score, anomaly_map = getattr(output, "pred_score", None), getattr(output, "anomaly_map", None)
        if score is None and anomaly_map is None:
            raise ConfigError(f"{self.source} gives no pred_score and no anomaly_map, as models of anomalib do; with "
                              "another model leave detector.kind out")
        return anomaly_map.flatten(1).amax(dim=1) if score is None else score.flatten()


def _gradients_kept() -> Any:
    """A mode in which whoever switches gradients off, or on, is not heard: it stays as it was outside."""

    class GradientsKept(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))

    return GradientsKept()
