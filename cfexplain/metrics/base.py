"""What a metric is: a spec with checked values, and `compute`, which turns a run into flat keys and numbers."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cfexplain.checks import check_positive
from cfexplain.detectors.base import Detector
from cfexplain.errors import CfexplainWarning
from cfexplain.explanation.explain import FittedModel
from cfexplain.lazy import Tensor, torch
from cfexplain.types import Explanations, ImageSet, Splits


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """All that a metric may look at.

    explanations:       of all test anomalies or, where there are none, of exposure images.
    explain:            explains any other images with the same generator, e.g. exposure.
    fit_detector:       fits a detector of the run's spec to other splits, or from another seed; its stand-in, where
                        the run's own was trained elsewhere and cannot be fitted.
    cache_dir:          where classifiers trained for evaluation are kept.
    test_normal_logits: (M,) float32 on the CPU, the detector's logits of the normal test images.
    metrics:            all metrics that were asked for, by name.
    """

    splits: Splits
    model: FittedModel
    explanations: Explanations
    explain: Callable[[ImageSet], Explanations]
    fit_detector: Callable[[Splits, int], Detector]
    device: torch.device
    seed: int
    cache_dir: Path
    test_normal_logits: Tensor
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)

    @property
    def defect_masks(self) -> Tensor | None:
        """(N, H, W) bool of the N explained sources, True where the defect is; None where the dataset marks none."""
        anomalies = self.splits.test_anomalies
        if anomalies.masks is None or not anomalies.masks.any():
            return None
        rows = {id: row for row, id in enumerate(anomalies.ids)}  # saved explanations carry no masks, but ids
        return anomalies.masks[torch.tensor([rows[id] for id in self.explanations.sources.ids])]

    @property
    def is_of_defects(self) -> bool:
        """An anomaly is a normal image with something wrong at a place of it: so it is marked, or so it was made."""
        return self.splits.fresh is not None or self.defect_masks is not None


@dataclass(frozen=True, kw_only=True)
class MetricSpec(ABC):
    """Values of a metric. What the reader of a number must know goes out as a CfexplainWarning.

    meanings: for tables, of each key (without _low, _high and _concept_<k>) what it says and its ideal value.
    """

    meanings: ClassVar[dict[str, tuple[str, str]]]

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        """Keys of metrics.json with their values: fractions, not per cent; 95 % intervals as <key>_low, <key>_high."""


@dataclass(frozen=True, kw_only=True)
class IntervalMetricSpec(MetricSpec):
    """A metric with bootstrap intervals.

    num_resamples: bootstrap resamples behind each interval.
    """

    num_resamples: int

    def __post_init__(self) -> None:
        check_positive(self, "num_resamples")


def tell_reader(message: str) -> None:
    """What the reader of a number must know, as a CfexplainWarning."""
    warnings.warn(message, CfexplainWarning, stacklevel=2)


def drawn_rows(size: int, count: int, seed: int) -> Tensor:
    """(M,) int64: at most `count` of `size` rows, in their order."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def drawn(explanations: Explanations, num_images: int, seed: int) -> Explanations:
    """Of at most `num_images` sources, in their order."""
    num_sources = len(explanations.sources)
    if num_sources <= num_images:
        return explanations
    return explanations.select(drawn_rows(num_sources, num_images, seed))
