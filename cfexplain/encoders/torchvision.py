"""A network of torchvision as the body of a detector, with random or given weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlparse

from cfexplain.encoders.base import check_size, EncoderSpec
from cfexplain.encoders.pretrained import fill, freeze_constants, ImageNetPixels, read_weights
from cfexplain.errors import DataError, did_you_mean
from cfexplain.lazy import nn, Tensor, torch, torchvision
from cfexplain.types import ImageShape

MODELS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "convnext_tiny",
    "convnext_small", "convnext_base",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Torchvision(EncoderSpec):
    """model:   its name in torchvision.models.
    weights: null (random), default (torchvision's own, from torch's cache or, where there are none, the network), or
             the path of a state dict of that model. They start the training, which goes on in all layers.

    With has_bias=False (Deep SVDD) whatever adds a constant is frozen: every bias, and the norms' scales with them. In
    a random network the biases are zero, so nothing that is learnt can map all images to one point. Given weights keep
    their biases, without which they mean nothing: a constant stays within reach, if far away, so fewer detector.steps
    are better there.
    """

    model: str
    weights: str | None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f"model must be one of {', '.join(MODELS)}, got {self.model!r}.{did_you_mean(self.model, MODELS)}"
            )
        if self.weights == "":
            raise ValueError("weights must be null, default, or the path of a state dict, got an empty text")

    @property
    def without_weights(self) -> Torchvision:
        return replace(self, weights=None)

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        encoder = TorchvisionEncoder(self.model, image_shape, output_dim, has_bias)
        if self.weights is not None:
            load_weights(encoder, self.model, self.weights)
        return encoder


class TorchvisionEncoder(nn.Module):
    """Grey or RGB images as torchvision's networks know them, the network, one linear layer in place of its last.

    Its dropout and stochastic depth are off: they draw from the global generator, and a run must be repeatable.
    """

    def __init__(self, model: str, image_shape: ImageShape, output_dim: int, has_bias: bool) -> None:
        super().__init__()
        check_size(image_shape, 32 if model.startswith("convnext") else 8, model)
        self.pixels = ImageNetPixels()
        self.body = torchvision.models.get_model(model, weights=None)
        self.head_name, head = [item for item in self.body.named_modules() if isinstance(item[1], nn.Linear)][-1]
        self.body.set_submodule(self.head_name, nn.Linear(head.in_features, output_dim, bias=has_bias))
        for module in self.body.modules():
            if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
                module.p = 0.0
        if not has_bias:
            freeze_constants(self.body)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) in [-1, 1] -> (N, output_dim)."""
        return self.body(self.pixels(images))


def load_weights(encoder: TorchvisionEncoder, model: str, weights: str) -> None:
    """`default` or the path of a state dict into all but the last layer; DataError where that is no such file."""
    path = _default_weights(model) if weights == "default" else Path(weights).expanduser()
    remedy = f"Set encoder.weights to a state dict of torchvision's {model}."
    fill(encoder.body, read_weights(path, model, remedy), f"{encoder.head_name}.", path, model, remedy)


def _default_weights(model: str) -> Path:
    """Where torch caches torchvision's own weights of that model, fetched if they are not there."""
    url = torchvision.models.get_model_weights(model).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        digest = path.stem.rpartition("-")[2]  # torchvision's names end with the first digits of the SHA-256
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(
                f"cannot fetch the weights of {model} ({reason}). Put {url} at {path}, set encoder.weights to a path "
                "of that file, or to null for random weights."
            ) from error
    return path
