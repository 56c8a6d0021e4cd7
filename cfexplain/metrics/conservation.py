"""Is what is no defect left as it is? Outside the marked defects, and in normal images.

A generator that does nothing has the ideal values here, and the worst ones of restoration and correction: read both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_at_least, check_positive
from cfexplain.lazy import F, Tensor
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import shares_of_concepts
from cfexplain.metrics.distance import l1_distances, level_changes, LEVELS_PER_UNIT


def widened(masks: Tensor, margin_pixels: int) -> Tensor:
    """(N, H, W) bool: also what lies at most so many pixels beside the mask, across, down or both."""
    return F.max_pool2d(masks[:, None].float(), 2 * margin_pixels + 1, stride=1, padding=margin_pixels)[:, 0].bool()


def outside_changes(sources: Tensor, counterfactuals: Tensor, masks: Tensor) -> np.ndarray:
    """(N, K): mean |x_k - x| outside the mask, in [-1, 1] units; NaN where the mask covers all.

    sources: (N, C, H, W) uint8; counterfactuals: (N, K, C, H, W) uint8; masks: (N, H, W) bool.
    """
    means = np.empty(counterfactuals.shape[:2])
    for row, (source, edited, mask) in enumerate(zip(sources, counterfactuals, masks, strict=True)):
        means[row] = level_changes(source, edited)[..., ~mask].double().mean(dim=(1, 2)).numpy() / LEVELS_PER_UNIT
    return means


@dataclass(frozen=True, kw_only=True)
class Conservation(IntervalMetricSpec):
    """outside_change, outside_kept and normals_left_alone; nothing where anomalies are no defects of a part.

    margin_pixels:   beside a marked defect, where a change counts neither as inside nor as outside.
    max_l1_distance: mean change of a pixel, in [-1, 1] units, up to which an image, or its outside, counts as kept.
    """

    meanings = {
        "outside_change": ("mean change of a pixel outside the marked defect, range -1..1", "0"),
        "outside_kept": ("share that change next to nothing outside the marked defect", "1"),
        "normals_left_alone": ("share of normal test images that are changed next to nowhere", "1"),
    }

    margin_pixels: int
    max_l1_distance: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, margin_pixels=0)
        check_positive(self, "max_l1_distance")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        values: dict[str, float | str] = {}
        if inputs.defect_masks is not None:
            values |= self._outside(inputs, inputs.defect_masks)
        if inputs.is_of_defects:
            normals = inputs.splits.test_normals
            changes = level_changes(normals.images[:, None], inputs.explain(normals).counterfactuals)
            is_kept = l1_distances(changes) <= self.max_l1_distance  # (M, K)
            values |= shares_of_concepts("normals_left_alone", is_kept, inputs.seed, self.num_resamples)
        return values

    def _outside(self, inputs: MetricInputs, masks: Tensor) -> dict[str, float]:
        """Over the images with a mark that leaves something outside."""
        explanations = inputs.explanations
        changes = outside_changes(
            explanations.sources.images, explanations.counterfactuals, widened(masks, self.margin_pixels)
        )
        changes = changes[masks.flatten(1).any(dim=1).numpy() & ~np.isnan(changes).any(axis=1)]
        if not len(changes):
            tell_reader("outside_change left out: with its margin each marked defect covers its image")
            return {}
        return {
            **shares_of_concepts("outside_change", changes, inputs.seed, self.num_resamples),
            **shares_of_concepts("outside_kept", changes <= self.max_l1_distance, inputs.seed, self.num_resamples),
        }
