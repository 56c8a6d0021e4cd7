"""How a judge is made; apart from the judge, so that a config is checked before torch loads."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.metrics.base import check_positive


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe:
    """The seed is the judge's own, not the run's: runs of different seeds share one judge."""

    width: int
    num_features: int
    num_steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "width", "num_features", "num_steps")
