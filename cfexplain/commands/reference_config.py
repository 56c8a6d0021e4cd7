"""What counterfactuals are held against, the same for explain and for a comparison of runs.

The second detector is of the run's own kind, from another seed: the run's generator never saw it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cfexplain.commands.trained_run import load_detector, open_run, REMEDY, TrainedRun
from cfexplain.detectors.base import Detector
from cfexplain.detectors.fitting import fit_detector
from cfexplain.engine import checkpoint
from cfexplain.engine.runtime import autocast_dtype
from cfexplain.errors import ConfigError, DataError
from cfexplain.explanation.explain import FittedModel
from cfexplain.inspection.reference import build_reference, Reference
from cfexplain.lazy import torch
from cfexplain.metrics.survival import Alterations
from cfexplain.metrics.classifiers import NetworkRecipe, feature_space
from cfexplain.metrics.transfer import SEED_OFFSET
from cfexplain.types import Splits, Tick

REFIT, NONE = "refit", "none"

log = logging.getLogger("cfexplain")


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """conf/judging.yaml, typed: a part of the configs of both commands.

    false_alarm_rate: share of normal images that may count as anomalous; sets the threshold.
    second_detector:  refit (of the run's kind, from another seed), none, or the folder of another train run.
    alterations:      what a counterfactual should survive.
    features:         of the space in which distances to normal images are taken.
    """

    false_alarm_rate: float
    second_detector: str
    alterations: Alterations
    features: NetworkRecipe
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
        space = feature_space(splits, self.features, Path(self.cache_dir), device)
        second = self._second_detector(trained, splits, device, report)
        return build_reference(
            model.detector, splits, space, second, self.false_alarm_rate, device, self.alterations
        )

    def _second_detector(
        self, trained: TrainedRun, splits: Splits, device: torch.device, report: Callable[[Tick], None]
    ) -> Detector | None:
        choice = self.second_detector
        if choice == NONE:
            return None
        if choice == REFIT:
            return refitted_detector(trained, splits, device, Path(self.cache_dir), report)
        other = open_run(choice, "", self.cache_dir, self.allow_custom_code)
        if other.image_shape() != trained.image_shape():
            shapes = " and ".join("x".join(map(str, run.image_shape())) for run in (trained, other))
            raise ConfigError(f"second_detector={choice}: that run takes images of another shape ({shapes})")
        path = other.folder / "checkpoints" / "detector.pt"
        return load_detector(other.config, path, REMEDY.format(folder=other.folder), device)


def refitted_detector(
    trained: TrainedRun, splits: Splits, device: torch.device, cache_dir: Path, report: Callable[[Tick], None]
) -> Detector:
    """Fitted once for a trained detector, then taken from the cache; a damaged file there is made again."""
    config = replace(trained.config, detector=trained.config.detector.second)
    weights = (trained.folder / "checkpoints" / "detector.pt").read_bytes()  # they follow from its data and config
    path = cache_dir / "judges" / f"second-detector-{hashlib.sha256(weights).hexdigest()[:16]}.pt"
    if path.exists():
        try:
            return load_detector(config, path, "delete it", device)
        except DataError as error:
            log.warning("%s: fitting the second detector again", error)
    seed = config.seed + SEED_OFFSET
    dtype = autocast_dtype(config.runtime, device)
    detector = fit_detector(config.detector, config.encoder, splits, seed, device, report, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {"image_shape": list(splits.image_shape), "detector": detector.state_dict()})
    return detector
