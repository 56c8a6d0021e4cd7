"""cfexplain train: data -> detector -> generator of counterfactuals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cfexplain.commands.adopt import adopted
from cfexplain.commands.job import Job
from cfexplain.commands.ranks.place import joined_at, torchrun_place
from cfexplain.commands.ranks.watched import run_ranks
from cfexplain.commands.stages import train_detector, train_generator
from cfexplain.commands.train_config import Stage, TrainConfig
from cfexplain.data.splits import role_lines
from cfexplain.detectors.base import build_detector, Detector, logits_of
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.runtime import check_device, device_name, start_torch
from cfexplain.explanation.game import build_concept_classifier
from cfexplain.files import write_csv
from cfexplain.lazy import torch
from cfexplain.metrics.auroc import detector_aurocs, unlike_normals
from cfexplain.reporting.console import Reporter
from cfexplain.reporting.grids import preview_grid, write_picture
from cfexplain.reporting.live import LivePage
from cfexplain.reporting.split import split_rows
from cfexplain.reporting.tensorboard import TensorBoard
from cfexplain.runs.folder import check_free_space
from cfexplain.types import ImageSet, Splits

__all__ = ["CONFIG", "HEADLINES", "check_device", "dry_run", "next_command", "run", "slug"]
HEADLINES = ("detector_auroc",)
NUM_RESAMPLES = 1000  # of the intervals of the detector's AuROC
NETWORK_COPIES = 4 * 3  # weights, two moments of Adam, an average; in the last checkpoint, the one before, a new one
PICTURES_MB = 5
CONFIG = TrainConfig


def slug(config: TrainConfig) -> str:
    return config.slug


def next_command(folder: Path, metrics: dict[str, float | str]) -> str:
    if (folder / "checkpoints" / "generator.pt").exists():
        return f"cfexplain explain run={folder}"
    return f"the same command with stage=generator run_dir={folder}"


def run(config: TrainConfig, job: Job) -> dict[str, float | str]:
    if (place := torchrun_place()) is not None:
        with joined_at(place, config.runtime, config.device) as (device, ranks):
            return train_run(config, job, device, ranks)
    if config.runtime.processes > 1:
        return run_ranks(job, config.runtime.processes)
    device = start_torch(config.runtime, config.device)
    return train_run(config, job, device, ALONE)


def train_run(config: TrainConfig, job: Job, device: torch.device, ranks: Ranks) -> dict[str, float | str]:
    """Alone, or as rank 0 of several, the only one that writes; the others do what stages.follow says."""
    job.folder.update(seed=config.seed, device=device_name(device), processes=ranks.size)
    boards = [TensorBoard(job.folder.path)] if config.tensorboard else []
    job.reporter.watchers = [LivePage(job.folder.path), *boards]
    with job.timed("data"):
        splits = config.load_splits()
    _say_roles(job.reporter, splits)
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


def dry_run(config: TrainConfig, planned: Path) -> int:
    """Load the data and build the networks; write nothing."""
    reporter = Reporter(sys.stderr if config.json else sys.stdout, history=None)
    device = start_torch(config.runtime, config.device)
    splits = config.load_splits()
    _say_roles(reporter, splits)
    for name, count in _num_parameters(config, splits).items():
        reporter.say(f"{name}: {count:,} parameters")
    if not config.detector.is_trained:
        reporter.say(adopted(config, splits, device).said)
    reporter.say(f"device: {device_name(device)}")
    reporter.say(f"folder (not made): {planned}")
    return 0


def _say_roles(reporter: Reporter, splits: Splits) -> None:
    """What the images are used for: of a set of many classes the counts, of a folder each group."""
    reporter.say(counts(splits))
    if splits.factors is None:
        for line in role_lines(splits):
            reporter.say(f"  {line}")


def counts(splits: Splits) -> str:
    parts = {
        "train": splits.train, "held out": splits.held_out, "exposure": splits.exposure,
        "test normal": splits.test_normals, "test anomalous": splits.test_anomalies,
    }
    sizes = ", ".join(f"{name} {0 if part is None else len(part)}" for name, part in parts.items())
    return f"images: {sizes}; {'x'.join(map(str, splits.image_shape))}"


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
