"""A small residual encoder for 64-256 px images (He et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.checks import check_at_least
from cfexplain.encoders.base import check_size, EncoderSpec, SLOPE
from cfexplain.lazy import F, nn, Tensor
from cfexplain.types import ImageShape

NUM_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class Residual(EncoderSpec):
    """width: channels of the first of four stages; each further one doubles them."""

    width: int

    def __post_init__(self) -> None:
        check_at_least(self, width=1)

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        return ResidualEncoder(image_shape, output_dim, self.width, has_bias)


class ResidualEncoder(nn.Module):
    """A stem that quarters the size, four stages of one residual block, the mean over space, one linear layer.

    Each stage after the first halves the size and doubles the channels. has_bias as in ConvEncoder.
    """

    def __init__(self, image_shape: ImageShape, output_dim: int, width: int, has_bias: bool = True) -> None:
        super().__init__()
        check_size(image_shape, 4 << (NUM_STAGES - 1), "residual")
        self.stem = nn.Sequential(
            nn.Conv2d(image_shape[0], width, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width, eps=1e-4, affine=has_bias),
            nn.LeakyReLU(SLOPE),
            nn.MaxPool2d(2),
        )
        widths = [width] + [width << stage for stage in range(NUM_STAGES)]
        self.stages = nn.Sequential(
            *(ResidualBlock(a, b, 1 if a == b else 2, has_bias) for a, b in zip(widths[:-1], widths[1:]))
        )
        self.head = nn.Linear(widths[-1], output_dim, bias=has_bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, output_dim)."""
        return self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, leaky ReLU after the sum (He et al., 2016).

    The shortcut takes every stride-th pixel and then mixes channels: what a strided 1x1 convolution computes. With few
    channels the latter's backward pass writes outside its memory on CPUs (oneDNN 3.12, uxlfoundation/oneDNN#6035).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_bias: bool) -> None:
        super().__init__()
        self.stride = stride
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias),
            )

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.norm_1(self.conv_1(features)), SLOPE)
        shortcut = self.shortcut(features[..., :: self.stride, :: self.stride])
        return F.leaky_relu(self.norm_2(self.conv_2(hidden)) + shortcut, SLOPE)
