"""cfexplain train: data -> detector -> generator of counterfactuals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cfexplain.commands.base import Command, counts, Job
from cfexplain.commands.ranks.place import joined_at, torchrun_rank
from cfexplain.commands.ranks.watched import run_ranks
from cfexplain.commands.stages import train_detector, train_generator
from cfexplain.commands.train_config import Stage, TrainConfig
from cfexplain.data.splits import role_lines
from cfexplain.detectors.base import build_detector, Detector, logits_of
from cfexplain.detectors.external.calibration import calibrate_external
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.runtime import device_name, start_torch
from cfexplain.explanation.game import build_concept_classifier
from cfexplain.files import write_csv
from cfexplain.lazy import torch
from cfexplain.metrics.auroc import detector_aurocs, unlike_normals
from cfexplain.reporting.grids import preview_grid, write_picture
from cfexplain.reporting.live import LivePage
from cfexplain.reporting.split import split_rows
from cfexplain.reporting.tensorboard import TensorBoard
from cfexplain.runs.folder import check_free_space
from cfexplain.types import ImageSet, Splits

NUM_RESAMPLES = 1000  # of the intervals of the detector's AuROC
NETWORK_COPIES = 4 * 3  # weights, two moments of Adam, an average; in the last checkpoint, the one before, a new one
PICTURES_MB = 5


class Train(Command):
    """Data, detector, generator of counterfactuals."""

    config_type = TrainConfig
    headlines = ("detector_auroc",)
    config: TrainConfig

    @property
    def slug(self) -> str:
        return self.config.slug

    def next_command(self, folder: Path, metrics: dict[str, float | str]) -> str:
        if (folder / "checkpoints" / "generator.pt").exists():
            return f"cfexplain explain run={folder}"
        return f"the same command with stage=generator run_dir={folder}"

    def run(self, job: Job) -> dict[str, float | str]:
        config = self.config
        if (place := torchrun_rank()) is not None:
            with joined_at(place, config.runtime, config.device) as (device, ranks):
                return train_run(config, job, device, ranks)
        if config.runtime.processes > 1:
            return run_ranks(job, config.runtime.processes)
        device = start_torch(config.runtime, config.device)
        return train_run(config, job, device, ALONE)

    def plan(self) -> Iterator[str]:
        """Loads the data and builds the networks."""
        config = self.config
        device = start_torch(config.runtime, config.device)
        splits = config.load_splits()
        yield from roles(splits)
        for name, count in _num_parameters(config, splits).items():
            yield f"{name}: {count:,} parameters"
        if not config.detector.is_trained:
            yield calibrate_external(config.detector, config.encoder, splits, config.seed, device).message
        yield f"device: {device_name(device)}"


COMMAND = Train


def train_run(config: TrainConfig, job: Job, device: torch.device, ranks: Ranks) -> dict[str, float | str]:
    """Alone, or as rank 0 of several, the only one that writes; the others do what stages.train_other_rank says."""
    job.folder.update(seed=config.seed, device=device_name(device), processes=ranks.size)
    boards = [TensorBoard(job.folder.path)] if config.tensorboard else []
    job.reporter.watchers = [LivePage(job.folder.path), *boards]
    with job.timed("data"):
        splits = config.load_splits()
    for line in roles(splits):
        job.reporter.say(line)
    check_free_space(job.folder.path, _wanted_mb(config, splits))
    write_csv(job.folder.path / "split.csv", split_rows(splits))
    write_picture(job.folder.images / "data_preview.png", preview_grid(splits, config.num_grid_images))
    with job.timed("detector"):
        detector = train_detector(config, job, splits, device, ranks)
    metrics = _detector_metrics(detector, splits, config.seed, device)
    if "detector_auroc" not in metrics:
        job.note("the dataset has no test anomalies: detector_auroc is left out")
    if (note := unlike_normals(metrics)) is not None:
        job.note(note)
    job.folder.write_metrics(metrics)
    if config.stage is not Stage.detector:
        with job.timed("generator"):
            train_generator(config, job, splits, detector, device, ranks)
    return metrics


def roles(splits: Splits) -> Iterator[str]:
    """What the images are used for: of a set of many classes the counts, of a folder each group."""
    yield counts(splits)
    if splits.factors is None:
        yield from (f"  {line}" for line in role_lines(splits))


def _num_parameters(config: TrainConfig, splits: Splits) -> dict[str, int]:
    shape, fit, spec = splits.image_shape, config.fit, config.generator
    networks = {
        "detector": build_detector(config.detector, config.encoder, shape, config.seed),
        "generator": spec.build_generator(shape, fit.num_alpha_bins, fit.num_concepts),
        "discriminator": spec.build_discriminator(shape, fit.num_alpha_bins),
        "concept classifier": build_concept_classifier(spec, fit, shape),
    }
    return {name: sum(part.numel() for part in network.parameters()) for name, network in networks.items()}


def _wanted_mb(config: TrainConfig, splits: Splits) -> float:
    """Upper bound of what a training writes; of float32."""
    return sum(_num_parameters(config, splits).values()) * 4 * NETWORK_COPIES / 2**20 + PICTURES_MB


def _detector_metrics(detector: Detector, splits: Splits, seed: int, device: torch.device) -> dict[str, float | str]:
    def logits(images: ImageSet) -> np.ndarray:
        return logits_of(detector, images.images, device).numpy()

    anomalous = logits(splits.test_anomalies) if splits.has_test_anomalies else None
    return {**detector_aurocs(logits(splits.held_out), logits(splits.test_normals), anomalous, seed, NUM_RESAMPLES)}
