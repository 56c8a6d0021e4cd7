"""What happens to any picture on its way: it is saved, moved by a pixel, blurred a little."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cfexplain.checks import check_positive
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.lazy import Tensor, torch

BATCH_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class Alterations:
    """JPEG, shift and blur, and how strong they are. PNG keeps every value, so there is nothing to survive.

    jpeg_quality: 1 to 95.
    shift_pixels: to the right.
    blur_sigma:   pixels, below 1.
    """

    jpeg_quality: int
    shift_pixels: int
    blur_sigma: float

    def __post_init__(self) -> None:
        check_positive(self, "jpeg_quality", "shift_pixels", "blur_sigma")
        if self.jpeg_quality > 95:
            raise ValueError(f"jpeg_quality must lie between 1 and 95, got {self.jpeg_quality}")
        if self.blur_sigma >= 1:
            raise ValueError(f"blur_sigma must lie between 0 and 1 pixel, got {self.blur_sigma}")

    @property
    def functions(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name, each (N, C, H, W) uint8 -> the same shape."""
        return {
            "jpeg": lambda images: through_jpeg(images, self.jpeg_quality),
            "shift": lambda images: shifted(images, self.shift_pixels),
            "blur": lambda images: blurred(images, self.blur_sigma),
        }


def altered_logits(
    detector: Detector, images: Tensor, alterations: Alterations, device: torch.device | str
) -> Tensor:
    """(N, C, H, W) uint8 -> (N, M) float32: the logits after each alteration, batch by batch."""
    functions = alterations.functions.values()
    parts = [
        torch.stack([logits_of(detector, alter(batch), device) for alter in functions], dim=1)
        for batch in images.split(BATCH_SIZE)
    ]
    return torch.cat(parts)


def through_jpeg(images: Tensor, quality: int) -> Tensor:
    """(N, C, H, W) uint8 with 1 or 3 channels, encoded by Pillow and read again."""
    decoded = np.empty(images.shape, dtype=np.uint8)
    for i, image in enumerate(images.numpy()):
        file = io.BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, 3)
        Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
        decoded[i] = np.asarray(Image.open(file)).reshape(*image.shape[1:], -1).transpose(2, 0, 1)
    return images.new_tensor(decoded)


def shifted(images: Tensor, num_pixels: int) -> Tensor:
    """Moved right by that many pixels; the left edge repeats."""
    edge = images[..., :1].expand(*images.shape[:-1], num_pixels)
    moved = images.roll(num_pixels, dims=-1)
    moved[..., :num_pixels] = edge
    return moved


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with 3 taps a side, edges repeated; for sigma well below 1 pixel."""
    side = math.exp(-1 / (2 * sigma**2))
    values = images.double()
    for _ in range(2):  # along the columns, then, transposed, along the rows
        before, after = values.roll(1, dims=-1), values.roll(-1, dims=-1)
        before[..., 0], after[..., -1] = values[..., 0], values[..., -1]
        values = ((values + side * (before + after)) / (1 + 2 * side)).transpose(-1, -2)
    return values.round().clamp(0, 255).byte()
