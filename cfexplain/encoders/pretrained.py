"""What networks with weights of ImageNet share: their pixels, their feature maps, a head on these, weight files."""

from __future__ import annotations

import pickle
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import DataError
from cfexplain.files import weights_file
from cfexplain.lazy import nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, range 0..1
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, AttributeError, TypeError, pickle.UnpicklingError)
MID_GREY = 0.5  # where an image's median comes to lie when its exposure is evened out
LEAST_GREY = 0.05  # a darker median counts as this
IMAGES_AT_A_TIME = 32  # where no gradient is wanted


@dataclass(frozen=True, kw_only=True)
class FeatureEncoderSpec(EncoderSpec):
    """A network that gives feature maps. Means and maxima of them over the image, and one linear layer, are an encoder.

    weights:   null (random), default, or the path of a state dict.
    layers:    of the network, from early to late, whose maps are used; what comes after the last is not computed.
    trainable: the body is trained too; else it stays as it is, its batch norms with it, and only the head learns.
    normalize_exposure: each image is divided by its own median grey, as light differs between photographs.

    has_bias=False: the constants of a body that is trained are frozen as Torchvision says.
    """

    weights: str | None
    layers: tuple[int, ...]
    trainable: bool
    normalize_exposure: bool

    def __post_init__(self) -> None:
        if self.weights == "":
            raise ValueError("weights must be null, default, or the path of a state dict, got an empty text")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be different numbers from low to high, got {list(self.layers)}")

    @property
    def without_weights(self) -> FeatureEncoderSpec:
        return replace(self, weights=None)

    @abstractmethod
    def build_features(self, image_shape: ImageShape) -> FeatureMaps:
        """(N, C, H, W) images in [-1, 1] -> a map (N, F, H', W') of each layer."""

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        return PooledFeatures(self.build_features(image_shape), output_dim, has_bias)


class ImageNetPixels(nn.Module):
    """Grey or RGB images in [-1, 1] as a network of ImageNet knows them."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD, normalize_exposure: bool = False
    ) -> None:
        super().__init__()
        self.normalize_exposure = normalize_exposure
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) in [-1, 1] -> (N, 3, H, W); grey is broadcast to three equal channels."""
        pixels = (images + 1) / 2
        if self.normalize_exposure:
            pixels = pixels * (MID_GREY / median_grey(pixels).clamp_min(LEAST_GREY)).view(-1, 1, 1, 1)
        return (pixels - self.mean) / self.std


@no_grad
def median_grey(pixels: Tensor) -> Tensor:
    """(N, C, H, W) -> (N,), of every second row and column. No gradient: a single pixel would get all of it.

    Sorted, as torch.median is not deterministic on a GPU.
    """
    grey = pixels[:, :, ::2, ::2].float().mean(dim=1).flatten(1)
    return grey.sort(dim=1).values[:, (grey.shape[1] - 1) // 2]


class FeatureMaps(nn.Module):
    """Pixels and body; num_features: of each map. A body that is not trained stays in eval mode, whatever is asked."""

    def __init__(self, pixels: ImageNetPixels, body: nn.Module, num_features: tuple[int, ...], trainable: bool) -> None:
        super().__init__()
        self.pixels, self.body, self.num_features, self.trainable = pixels, body, num_features, trainable
        body.requires_grad_(trainable).train(trainable)

    def train(self, mode: bool = True) -> FeatureMaps:
        super().train(mode)
        self.body.train(mode and self.trainable)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) in [-1, 1] -> a map (N, F, H', W') of each layer."""
        if torch.is_grad_enabled() or self.body.training:
            return self.body(self.pixels(images))
        parts = [self.body(self.pixels(part)) for part in images.split(IMAGES_AT_A_TIME)]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]


class PooledFeatures(nn.Module):
    """The mean and the maximum of each feature over the image, and one linear layer: an encoder."""

    def __init__(self, features: FeatureMaps, output_dim: int, has_bias: bool) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(2 * sum(features.num_features), output_dim, bias=has_bias)
        if not has_bias:
            freeze_constants(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, output_dim)."""
        maps = self.features(images)
        return self.head(torch.cat([pooled for part in maps for pooled in (part.mean((2, 3)), part.amax((2, 3)))], 1))


def freeze_constants(network: nn.Module) -> None:
    """Biases, which networks start at zero, and norms are not learnt. Weights loaded later bring their own."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = isinstance(module, nn.Linear | nn.Conv2d) or name == "layer_scale"  # all else is a norm's scale
            if name == "bias" or not is_weight:
                parameter.requires_grad_(False)


def read_weights(path: Path, model: str, remedy: str) -> dict[str, Tensor]:
    """The state dict in a file; DataError where there is none."""
    if not path.is_file():
        raise DataError(f"no weights at {path}. Set encoder.weights to a state dict of {model}, or to null for none.")
    try:
        state = torch.load(weights_file(path), map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise DataError(f"{path} is no file of weights, or a damaged one. {remedy}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no plain state dict of tensors. {remedy}")
    return state


def fill(network: nn.Module, given: dict[str, Tensor], without: str, path: Path, model: str, remedy: str) -> None:
    """All of a network but the layer `without`, if that is not empty; DataError where names or shapes differ."""
    own = network.state_dict()
    given = {name: value for name, value in given.items() if not without or not name.startswith(without)}
    wanted = {name for name in own if not without or not name.startswith(without)}
    # Files from before PyTorch 0.4.1 lack the norms' step counts, which eval mode does not read.
    missing = sorted(name for name in wanted - set(given) if not name.endswith("num_batches_tracked"))
    strange = sorted(set(given) - wanted)
    misshapen = sorted(name for name in wanted & set(given) if own[name].shape != given[name].shape)
    for names, reason in ((missing, "lacks"), (strange, "also has"), (misshapen, "has another shape of")):
        if names:
            found = f"{reason} {names[0]} (and {len(names) - 1} more)"
            raise DataError(f"{path} does not fit {model}: it {found}. {remedy}")
    network.load_state_dict(given, strict=False)
