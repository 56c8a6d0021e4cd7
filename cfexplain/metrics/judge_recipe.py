"""How a judge is made; apart from the judge, so that a config is checked before torch loads."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.metrics.base import IntervalMetricSpec, check_positive

NUM_FEATURES = 64


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe:
    """The seed is the judge's own, not the run's: runs of different seeds share one judge."""

    width: int
    num_features: int
    num_steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "width", "num_features", "num_steps")


@dataclass(frozen=True, kw_only=True)
class JudgedMetricSpec(IntervalMetricSpec):
    """A metric whose judge is a classifier of its own.

    width, num_steps: of that classifier.
    """

    width: int
    num_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "width", "num_steps")

    def recipe(self, seed: int = 0) -> JudgeRecipe:
        return JudgeRecipe(width=self.width, num_features=NUM_FEATURES, num_steps=self.num_steps, seed=seed)
