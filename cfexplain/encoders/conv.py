"""A LeNet-like encoder for 28-64 px images (Ruff et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.checks import check_at_least
from cfexplain.encoders.base import check_size, EncoderSpec, SLOPE
from cfexplain.lazy import nn, Tensor
from cfexplain.types import ImageShape

NUM_BLOCKS = 3


@dataclass(frozen=True, kw_only=True)
class Conv(EncoderSpec):
    """width: channels of the first of three convolutions; each further one doubles them."""

    width: int

    def __post_init__(self) -> None:
        check_at_least(self, width=1)

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        return ConvEncoder(image_shape, output_dim, self.width, has_bias)


class ConvEncoder(nn.Module):
    """Three blocks of 5x5 convolution, batch norm, leaky ReLU and max pooling, then one linear layer.

    has_bias=False leaves out every bias and the affine part of batch norm: with either, a network can map all images
    to one point, which is Deep SVDD's trivial solution (Ruff et al., 2018, propositions 1 and 2).
    """

    def __init__(self, image_shape: ImageShape, output_dim: int, width: int, has_bias: bool = True) -> None:
        super().__init__()
        check_size(image_shape, 1 << NUM_BLOCKS, "conv")
        channels, height, width_px = image_shape
        blocks: list[nn.Module] = []
        for block_index in range(NUM_BLOCKS):
            out_channels = width << block_index
            blocks += [
                nn.Conv2d(channels, out_channels, kernel_size=5, padding=2, bias=False),
                nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias),
                nn.LeakyReLU(SLOPE),
                nn.MaxPool2d(2),
            ]
            channels, height, width_px = out_channels, height // 2, width_px // 2
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(channels * height * width_px, output_dim, bias=has_bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, output_dim)."""
        return self.head(self.features(images))
