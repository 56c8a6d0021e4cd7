"""A LeNet-like encoder for 28-64 px images (Ruff et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import ConfigError
from cfexplain.lazy import F, nn, Tensor
from cfexplain.types import ImageShape


@dataclass(frozen=True, kw_only=True)
class Conv(EncoderSpec):
    """width: channels of the first of three convolutions; each further one doubles them."""

    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")

    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        return ConvEncoder(image_shape, output_dim, self.width, has_bias)


NUM_BLOCKS = 3
NUM_STAGES = 4
SLOPE = 0.1  # of the leaky ReLUs


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
    """Two 3x3 convolutions with batch norm beside a shortcut, leaky ReLU after the sum (He et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_bias: bool) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias),
            )

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.norm_1(self.conv_1(features)), SLOPE)
        return F.leaky_relu(self.norm_2(self.conv_2(hidden)) + self.shortcut(features), SLOPE)


def check_size(image_shape: ImageShape, least: int, name: str) -> None:
    """ConfigError for images that the poolings and strides would leave without a pixel."""
    _, height, width = image_shape
    if min(height, width) < least:
        raise ConfigError(
            f"encoder={name} needs images of {least}x{least} pixels or more, and these are {height}x{width}. "
            "Choose larger images, or another encoder=..."
        )
