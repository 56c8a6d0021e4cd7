"""A small residual encoder for 64-256 px images (He et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.encoders.base import EncoderSpec
from cfexplain.encoders.conv import ResidualEncoder
from cfexplain.lazy import nn
from cfexplain.types import ImageShape


@dataclass(frozen=True, kw_only=True)
class Residual(EncoderSpec):
    """width: channels of the first of four stages; each further one doubles them."""

    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        return ResidualEncoder(image_shape, output_dim, self.width, has_bias)
