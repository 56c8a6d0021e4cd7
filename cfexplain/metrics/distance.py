"""How much of the image a counterfactual changes."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.lazy import Tensor
from cfexplain.metrics.base import check_positive, MetricInputs, MetricSpec

LEVELS_PER_UNIT = 127.5  # 8-bit levels in one unit of [-1, 1]


def l1_distance(sources: Tensor, counterfactuals: Tensor) -> float:
    """Mean |x_k - x| in [-1, 1] units. (N, C, H, W) and (N, K, C, H, W) uint8."""
    return float(_changes(sources, counterfactuals).double().mean() / LEVELS_PER_UNIT)


def changed_fraction(sources: Tensor, counterfactuals: Tensor, change_threshold: float) -> float:
    """Share of pixels of which some channel changes by more than `change_threshold` in [-1, 1] units."""
    largest = _changes(sources, counterfactuals).amax(dim=2)  # (N, K, H, W)
    return float((largest > change_threshold * LEVELS_PER_UNIT).double().mean())


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


def _changes(sources: Tensor, counterfactuals: Tensor) -> Tensor:
    """(N, K, C, H, W) int16, |x_k - x| in 8-bit levels."""
    return (counterfactuals.short() - sources[:, None].short()).abs()
