"""How many images at a time, so that memory does not grow with their size."""

from __future__ import annotations

import math

from torch import Tensor

PIXELS = 1 << 22  # of a batch of float images: some 50 MB in RGB


def images_within(num_pixels: int, images: Tensor) -> int:
    """At least 1; images: (N, C, H, W)."""
    return max(1, num_pixels // math.prod(images.shape[2:]))
