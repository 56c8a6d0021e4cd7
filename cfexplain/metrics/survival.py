"""Does a counterfactual stay normal when it is saved as JPEG, shifted by a pixel or blurred a little?"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, check_positive
from cfexplain.metrics.bootstrap import share_with_interval
from cfexplain.metrics.validity import is_valid

if TYPE_CHECKING:
    from torch import Tensor


def through_file(images: Tensor, format: str, **options: int) -> Tensor:
    """(N, C, H, W) uint8 with 1 or 3 channels, encoded by Pillow and read again."""
    decoded = np.empty(images.shape, dtype=np.uint8)
    for i, image in enumerate(images.numpy()):
        file = io.BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, 3)
        Image.fromarray(pixels).save(file, format=format, **options)
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


@dataclass(frozen=True, kw_only=True)
class Survival(IntervalMetricSpec):
    """Share of valid counterfactuals still valid after each alteration, and (survival) after every one of them.

    survival_normals is the same share among valid normal test images: what to expect of a real one.
    jpeg_quality: 1 to 95.
    shift_pixels: to the right.
    blur_sigma:   pixels, below 1.
    """

    meanings = {
        "survival": ("share of valid ones still valid after PNG, JPEG, shift, blur", "1"),
        "survival_normals": ("survival of valid normal test images, for comparison", "-"),
        "survival_png": ("share of valid ones still valid after PNG", "1"),
        "survival_jpeg": ("share of valid ones still valid after JPEG", "1"),
        "survival_shift": ("share of valid ones still valid after the shift", "1"),
        "survival_blur": ("share of valid ones still valid after the blur", "1"),
    }

    jpeg_quality: int
    shift_pixels: int
    blur_sigma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "jpeg_quality", "shift_pixels", "blur_sigma")
        if self.jpeg_quality > 95:
            raise ValueError(f"jpeg_quality must lie between 1 and 95, got {self.jpeg_quality}")
        if self.blur_sigma >= 1:
            raise ValueError(f"blur_sigma must lie between 0 and 1 pixel, got {self.blur_sigma}")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        explanations = inputs.explanations
        valid = is_valid(explanations)  # (N, K)
        if not valid.any():
            warnings.warn("survival left out: no counterfactual is valid", CfexplainWarning, stacklevel=2)
            return {}
        kept = self._kept(explanations.counterfactuals.flatten(0, 1), inputs)
        everywhere = np.logical_and.reduce(list(kept.values())).reshape(valid.shape)
        values = share_with_interval("survival", everywhere, inputs.seed, self.num_resamples, among=valid)
        values |= {f"survival_{name}": float(kept[name].reshape(valid.shape)[valid].mean()) for name in kept}

        normals = inputs.test_normal_logits.numpy() <= explanations.threshold
        if normals.any():
            kept_normals = self._kept(inputs.splits.test_normals.images, inputs)
            values["survival_normals"] = float(np.logical_and.reduce(list(kept_normals.values()))[normals].mean())
        return values

    @property
    def alterations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {
            "png": lambda images: through_file(images, "PNG"),
            "jpeg": lambda images: through_file(images, "JPEG", quality=self.jpeg_quality),
            "shift": lambda images: shifted(images, self.shift_pixels),
            "blur": lambda images: blurred(images, self.blur_sigma),
        }

    def _kept(self, images: Tensor, inputs: MetricInputs) -> dict[str, np.ndarray]:
        """For each alteration (N,) bool: at or below the threshold after it."""
        from cfexplain.detectors.network import logits_of

        detector, threshold = inputs.model.detector, inputs.explanations.threshold
        return {
            name: (logits_of(detector, alter(images), inputs.device) <= threshold).numpy()
            for name, alter in self.alterations.items()
        }
