"""Does a counterfactual stay normal when it is saved as JPEG, shifted by a pixel or blurred a little?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.lazy import Tensor
from cfexplain.metrics.alterations import altered_logits, Alterations
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval
from cfexplain.metrics.validity import is_valid


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
