"""What counterfactuals are judged by, the same for explain and for a comparison of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cfexplain.commands.second_detector import load_second_detector
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.explanation.explain import FittedModel
from cfexplain.inspection.reference import build_reference, Reference
from cfexplain.lazy import torch
from cfexplain.metrics.alterations import Alterations
from cfexplain.metrics.classifiers import ClassifierRecipe, feature_space
from cfexplain.types import Splits, Tick


@dataclass(frozen=True, kw_only=True)
class Judging:
    """conf/judging.yaml, typed: a part of the configs of both commands.

    false_alarm_rate: share of normal images that may count as anomalous; sets the threshold.
    second_detector:  refit (of the run's kind, from another seed), none, or the folder of another train run.
    alterations:      what a counterfactual should survive.
    features:         of the space in which distances to normal images are taken.
    """

    false_alarm_rate: float
    second_detector: str
    alterations: Alterations
    features: ClassifierRecipe
    cache_dir: str
    allow_custom_code: bool

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must lie between 0 and 1, got {self.false_alarm_rate}")

    def reference(
        self, trained: TrainedRun, model: FittedModel, splits: Splits, device: torch.device,
        report: Callable[[Tick], None],
    ) -> Reference:
        """Of one trained run; report: of the second detector's training."""
        cache_dir = Path(self.cache_dir)
        space = feature_space(splits, self.features, cache_dir, device)
        judge = load_second_detector(
            self.second_detector, trained, splits, device, cache_dir, self.allow_custom_code, report
        )
        return build_reference(
            model.detector, splits, space, judge, self.false_alarm_rate, device, self.alterations
        )
