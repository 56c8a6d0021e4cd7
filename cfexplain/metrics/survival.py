"""Does a counterfactual stay normal when it is saved as JPEG, shifted by a pixel or blurred a little?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from cfexplain.detectors.base import logits_of
from cfexplain.errors import CfexplainWarning
from cfexplain.lazy import Tensor
from cfexplain.metrics.alterations import Alterations
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs
from cfexplain.metrics.bootstrap import share_with_interval
from cfexplain.metrics.validity import is_valid


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
        _ = self.alterations  # checks the strengths

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
    def alterations(self) -> Alterations:
        return Alterations(
            jpeg_quality=self.jpeg_quality, shift_pixels=self.shift_pixels, blur_sigma=self.blur_sigma
        )

    def _kept(self, images: Tensor, inputs: MetricInputs) -> dict[str, np.ndarray]:
        """For each alteration (N,) bool: at or below the threshold after it."""
        detector, threshold = inputs.model.detector, inputs.explanations.threshold
        return {
            name: (logits_of(detector, alter(images), inputs.device) <= threshold).numpy()
            for name, alter in self.alterations.functions.items()
        }
