"""The detector's part of train for one that is trained already: it is checked and calibrated, not fitted."""

from __future__ import annotations

from cfexplain.commands.base import Job
from cfexplain.commands.train_config import TrainConfig
from cfexplain.detectors.base import Detector
from cfexplain.detectors.external.adoption import adopt_detector, Adopted
from cfexplain.engine import checkpoint
from cfexplain.lazy import torch
from cfexplain.types import Splits


def adopted(config: TrainConfig, splits: Splits, device: torch.device) -> Adopted:
    return adopt_detector(config.detector, config.encoder, splits, config.seed, device)


def adopt(config: TrainConfig, job: Job, splits: Splits, device: torch.device) -> Detector:
    """Take it over and keep in the run's folder all that it is read from."""
    found = adopted(config, splits, device)
    job.reporter.say(found.said)
    config.detector.keep(job.folder.checkpoints)  # before the checkpoint, whose presence says that all is there
    values = {"image_shape": list(splits.image_shape), "detector": found.detector.state_dict()}
    checkpoint.save(job.folder.checkpoints / "detector.pt", values)
    return found.detector
