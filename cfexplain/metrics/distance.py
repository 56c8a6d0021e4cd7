"""How much of the image a counterfactual changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_positive
from cfexplain.lazy import Tensor
from cfexplain.metrics.base import MetricInputs, MetricSpec

LEVELS_PER_UNIT = 127.5  # 8-bit levels in one unit of [-1, 1]
VISIBLE_CHANGE = 0.1  # of a pixel, in [-1, 1] units, where an explanation is described; as in conf/metric/distance.yaml


def level_changes(sources: Tensor, edited: Tensor) -> Tensor:
    """|edited - source| in 8-bit levels, int16; both uint8 (..., C, H, W), shapes broadcast."""
    return (edited.short() - sources.short()).abs()


def l1_distances(changes: Tensor) -> np.ndarray:
    """Mean |x_k - x| of each image in [-1, 1] units, (...) float64; changes: (..., C, H, W) in levels."""
    return (changes.double().mean(dim=(-3, -2, -1)) / LEVELS_PER_UNIT).numpy()


def changed_fractions(changes: Tensor, change_threshold: float) -> np.ndarray:
    """(...) float64: share of pixels with a channel that changes by more than the threshold, in [-1, 1] units.

    changes: (..., C, H, W) in levels.
    """
    is_changed = changes.amax(dim=-3) > change_threshold * LEVELS_PER_UNIT  # (..., H, W)
    return is_changed.double().mean(dim=(-2, -1)).numpy()


@dataclass(frozen=True, kw_only=True)
class Distance(MetricSpec):
    meanings = {
        "l1_distance": ("mean change of a pixel, range -1..1", "low"),
        "changed_fraction": ("share of pixels that change visibly", "low"),
    }

    change_threshold: float

    def __post_init__(self) -> None:
        check_positive(self, "change_threshold")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        changes = level_changes(inputs.explanations.sources.images[:, None], inputs.explanations.counterfactuals)
        stacked = changes.permute(2, 0, 1, 3, 4).flatten(1, 3)  # (C, N * K * H, W): the mean over all, rounded once
        return {
            "l1_distance": float(l1_distances(stacked)),
            "changed_fraction": float(changed_fractions(stacked, self.change_threshold)),
        }
