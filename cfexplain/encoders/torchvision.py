"""A network of torchvision as the body of a detector, with random or given weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import did_you_mean
from cfexplain.types import ImageShape

if TYPE_CHECKING:
    from torch import nn

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
        from cfexplain.nets.torchvision_encoder import TorchvisionEncoder, load_weights

        encoder = TorchvisionEncoder(self.model, image_shape, output_dim, has_bias)
        if self.weights is not None:
            load_weights(encoder, self.model, self.weights)
        return encoder
