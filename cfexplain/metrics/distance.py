"""How much of the image a counterfactual changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.lazy import Tensor
from cfexplain.metrics.base import check_positive, MetricInputs, MetricSpec

LEVELS_PER_UNIT = 127.5  # 8-bit levels in one unit of [-1, 1]
VISIBLE_CHANGE = 0.1  # of a pixel, in [-1, 1] units, where an explanation is described; as in conf/metric/distance.yaml


def level_changes(sources: Tensor, edited: Tensor) -> Tensor:
    """|edited - source| in 8-bit levels, int16; both uint8 (..., C, H, W), shapes broadcast."""
    return (edited.short() - sources.short()).abs()


def l1_distance(sources: Tensor, counterfactuals: Tensor) -> float:
    """Mean |x_k - x| in [-1, 1] units. (N, C, H, W) and (N, K, C, H, W) uint8."""
    return float(level_changes(sources[:, None], counterfactuals).double().mean() / LEVELS_PER_UNIT)


def l1_distances(changes: Tensor) -> np.ndarray:
    """Of each image (...) float64; changes: (..., C, H, W) in levels."""
    units = changes.numpy() / LEVELS_PER_UNIT
    return units.reshape(*units.shape[:-3], -1).mean(axis=-1)


def changed_fraction(sources: Tensor, counterfactuals: Tensor, change_threshold: float) -> float:
    """Share of pixels of which some channel changes by more than `change_threshold` in [-1, 1] units."""
    return float(_is_changed(level_changes(sources[:, None], counterfactuals), change_threshold).double().mean())


def changed_fractions(changes: Tensor, change_threshold: float) -> np.ndarray:
    """Of each image (...) float64; changes: (..., C, H, W) in levels."""
    return _is_changed(changes, change_threshold).double().mean(dim=(-2, -1)).numpy()


@dataclass(frozen=True, kw_only=True)
class Distance(MetricSpec):
    """l1_distance and changed_fraction.

    change_threshold: in [-1, 1] units.
    """

    meanings = {
        "l1_distance": ("mean change of a pixel, range -1..1", "low"),
        "changed_fraction": ("share of pixels that change visibly", "low"),
    }

    change_threshold: float

    def __post_init__(self) -> None:
        check_positive(self, "change_threshold")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        sources, counterfactuals = inputs.explanations.sources.images, inputs.explanations.counterfactuals
        return {
            "l1_distance": l1_distance(sources, counterfactuals),
            "changed_fraction": changed_fraction(sources, counterfactuals, self.change_threshold),
        }


def _is_changed(changes: Tensor, change_threshold: float) -> Tensor:
    """(..., C, H, W) in levels -> (..., H, W) bool."""
    return changes.amax(dim=-3) > change_threshold * LEVELS_PER_UNIT
