"""Does a counterfactual stay normal when it is saved as JPEG, shifted by a pixel or blurred a little?"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cfexplain.checks import check_positive
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.lazy import ndimage, Tensor, torch, v2
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval
from cfexplain.metrics.validity import is_valid

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


@dataclass(frozen=True, kw_only=True)
class Survival(Alterations, IntervalMetricSpec):
    """Share of valid counterfactuals still valid after each alteration, and (survival) after every one of them.

    survival_normals is the same share among valid normal test images: what to expect of a real one.
    """

    meanings = {
        "survival": ("share of valid ones still valid after JPEG, shift, blur", "1"),
        "survival_normals": ("survival of valid normal test images, for comparison", "-"),
        "survival_jpeg": ("share of valid ones still valid after JPEG", "1"),
        "survival_shift": ("share of valid ones still valid after the shift", "1"),
        "survival_blur": ("share of valid ones still valid after the blur", "1"),
    }

    def __post_init__(self) -> None:
        IntervalMetricSpec.__post_init__(self)
        Alterations.__post_init__(self)

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        explanations = inputs.explanations
        valid = is_valid(explanations)  # (N, K)
        if not valid.any():
            tell_reader("survival left out: no counterfactual is valid")
            return {}
        survives = self._survives(explanations.counterfactuals, inputs)  # (N, K, M)
        values = share_with_interval("survival", survives.all(axis=2), inputs.seed, self.num_resamples, among=valid)
        names = enumerate(self.functions)
        values |= {f"survival_{name}": float(survives[..., number][valid].mean()) for number, name in names}

        normals = inputs.test_normal_logits.numpy() <= explanations.threshold
        if normals.any():
            surviving_normals = self._survives(inputs.splits.test_normals.images, inputs)
            values["survival_normals"] = float(surviving_normals[normals].all(axis=1).mean())
        return values

    def _survives(self, images: Tensor, inputs: MetricInputs) -> np.ndarray:
        """(..., M) bool: at or below the detector's threshold after each alteration."""
        logits = altered_logits(inputs.model.detector, images, self, inputs.device)
        return (logits <= inputs.explanations.threshold).numpy()


def altered_logits(
    detector: Detector, images: Tensor, alterations: Alterations, device: torch.device | str
) -> Tensor:
    """(..., C, H, W) uint8 -> (..., M) float32: the logits after each alteration, batch by batch."""
    parts = [
        torch.stack([logits_of(detector, alter(batch), device) for alter in alterations.functions.values()], dim=1)
        for batch in images.reshape(-1, *images.shape[-3:]).split(BATCH_SIZE)
    ]
    return torch.cat(parts).reshape(*images.shape[:-3], len(alterations.functions))


def through_jpeg(images: Tensor, quality: int) -> Tensor:
    """Encoded by Pillow and read again: (N, C, H, W) uint8, with 1 or 3 channels."""
    decoded = []
    for image in images:
        file = io.BytesIO()
        v2.functional.to_pil_image(image).save(file, format="JPEG", quality=quality)
        decoded.append(v2.functional.pil_to_tensor(Image.open(file)))
    return torch.stack(decoded) if decoded else images


def shifted(images: Tensor, num_pixels: int) -> Tensor:
    """Moved right by that many pixels; the left edge repeats."""
    return v2.functional.pad(images, [num_pixels, 0, 0, 0], padding_mode="edge")[..., : images.shape[-1]]


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with 3 taps a side, edges repeated; for sigma well below 1 pixel."""
    values = ndimage.gaussian_filter(images.double().numpy(), sigma, radius=1, mode="nearest", axes=(-2, -1))
    return torch.from_numpy(values).round().clamp(0, 255).byte()
