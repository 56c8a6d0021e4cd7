"""A LeNet-like convolutional encoder for 28-64 px images (Ruff et al., 2018; Liznerski et al., 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from cfexplain.types import ImageShape

NUM_BLOCKS = 3


class ConvEncoder(nn.Module):
    """Three blocks of 5x5 convolution, batch norm, leaky ReLU and max pooling, then one linear layer.

    has_bias=False leaves out every bias and the affine part of batch norm: with either, a network can map all images
    to one point, which is Deep SVDD's trivial solution (Ruff et al., 2018, propositions 1 and 2).
    """

    def __init__(self, image_shape: ImageShape, output_dim: int, width: int, has_bias: bool = True) -> None:
        super().__init__()
        channels, height, width_px = image_shape
        blocks: list[nn.Module] = []
        for block_index in range(NUM_BLOCKS):
            out_channels = width << block_index
            blocks += [
                nn.Conv2d(channels, out_channels, kernel_size=5, padding=2, bias=False),
                nn.BatchNorm2d(out_channels, eps=1e-4, affine=has_bias),
                nn.LeakyReLU(0.1),
                nn.MaxPool2d(2),
            ]
            channels, height, width_px = out_channels, height // 2, width_px // 2
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(channels * height * width_px, output_dim, bias=has_bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, output_dim)."""
        return self.head(self.features(images))
