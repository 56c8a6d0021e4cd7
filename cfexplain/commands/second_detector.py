"""The independent judge: a detector of the run's own kind from another seed, which its generator never saw."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cfexplain.commands.trained_run import load_detector, open_run, REMEDY, TrainedRun
from cfexplain.detectors.base import Detector
from cfexplain.detectors.fitting import fit_detector
from cfexplain.engine import checkpoint
from cfexplain.errors import ConfigError, DataError
from cfexplain.lazy import torch
from cfexplain.metrics.transfer import SEED_OFFSET
from cfexplain.types import Splits, Tick

REFIT, NONE = "refit", "none"

log = logging.getLogger("cfexplain")


def load_second_detector(
    choice: str, trained: TrainedRun, splits: Splits, device: torch.device, cache_dir: Path, allow_custom_code: bool,
    report: Callable[[Tick], None],
) -> Detector | None:
    """choice: refit, none, or the folder of another train run, whose detector then is the judge."""
    if choice == NONE:
        return None
    if choice == REFIT:
        return refitted_detector(trained, splits, device, cache_dir, report)
    return _detector_of(choice, trained, device, cache_dir, allow_custom_code)


def refitted_detector(
    trained: TrainedRun, splits: Splits, device: torch.device, cache_dir: Path, report: Callable[[Tick], None]
) -> Detector:
    """Fitted once for a trained detector, then taken from the cache; a damaged file there is made again."""
    config = replace(trained.config, detector=trained.config.detector.second)
    path = cache_dir / "judges" / f"second-detector-{_digest(trained.folder)}.pt"
    if path.exists():
        try:
            return load_detector(config, path, "delete it", device)
        except DataError as error:
            log.warning("%s: fitting the second detector again", error)
    seed = config.seed + SEED_OFFSET
    detector = fit_detector(config.detector, config.encoder, splits, seed, device, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {"image_shape": list(splits.image_shape), "detector": detector.state_dict()})
    return detector


def _detector_of(
    run: str, trained: TrainedRun, device: torch.device, cache_dir: Path, allow_custom_code: bool
) -> Detector:
    other = open_run(run, "", str(cache_dir), allow_custom_code)
    if other.image_shape() != trained.image_shape():
        shapes = " and ".join("x".join(map(str, one.image_shape())) for one in (trained, other))
        raise ConfigError(f"second_detector={run}: that run takes images of another shape ({shapes})")
    path = other.folder / "checkpoints" / "detector.pt"
    return load_detector(other.config, path, REMEDY.format(folder=other.folder), device)


def _digest(folder: Path) -> str:
    """The detector's weights stand for its data and config: it follows from them."""
    return hashlib.sha256((folder / "checkpoints" / "detector.pt").read_bytes()).hexdigest()[:16]
