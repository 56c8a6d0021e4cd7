"""The detector's part of train for one that is trained already: it is checked and calibrated, not fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfexplain.commands.job import Job
from cfexplain.commands.train_config import TrainConfig

if TYPE_CHECKING:
    import torch

    from cfexplain.detectors.adoption import Adopted
    from cfexplain.detectors.network import Detector
    from cfexplain.types import Splits


def adopted(config: TrainConfig, splits: Splits, device: torch.device) -> Adopted:
    from cfexplain.detectors.adoption import adopt_detector

    return adopt_detector(config.detector, config.encoder, splits, config.seed, device)


def adopt(config: TrainConfig, job: Job, splits: Splits, device: torch.device) -> Detector:
    """Take it over and keep in the run's folder all that it is read from."""
    from cfexplain.engine import checkpoint

    found = adopted(config, splits, device)
    job.reporter.say(found.said)
    config.detector.keep(job.folder.checkpoints)  # before the checkpoint, whose presence says that all is there
    values = {"image_shape": list(splits.image_shape), "detector": found.detector.state_dict()}
    checkpoint.save(job.folder.checkpoints / "detector.pt", values)
    return found.detector
