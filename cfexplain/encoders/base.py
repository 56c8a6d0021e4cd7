"""What an encoder is: values, and `build`, which makes the network under a detector's formulas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cfexplain.errors import ConfigError
from cfexplain.lazy import nn
from cfexplain.types import ImageShape

SLOPE = 0.1  # of our own encoders' leaky ReLUs


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(ABC):
    """The body of a detector."""

    @property
    def without_weights(self) -> EncoderSpec:
        """The same network for a checkpoint to fill: it reads no file of given weights."""
        return self

    @abstractmethod
    def build(self, image_shape: ImageShape, output_dim: int, has_bias: bool) -> nn.Module:
        """(N, C, H, W) images in [-1, 1] -> (N, output_dim), its input normalisation included.

        has_bias=False: nothing that is learnt may map all images to one point (Ruff et al., 2018, propositions 1, 2).
        ConfigError for images of a size the network cannot take.
        """


def check_size(image_shape: ImageShape, least: int, name: str) -> None:
    """ConfigError for images that the poolings and strides would leave without a pixel."""
    _, height, width = image_shape
    if min(height, width) < least:
        raise ConfigError(
            f"encoder={name} needs images of {least}x{least} pixels or more, and these are {height}x{width}. "
            "Choose larger images, or another encoder=..."
        )
