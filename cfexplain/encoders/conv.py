"""A LeNet-like encoder for 28-64 px images (Ruff et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cfexplain.encoders.base import EncoderSpec
from cfexplain.types import ImageShape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Conv(EncoderSpec):
    """width: channels of the first of three convolutions; each further one doubles them."""

    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        from cfexplain.nets.encoders import ConvEncoder

        return ConvEncoder(image_shape, output_dim, self.width, has_bias)
