"""cfexplain train: data -> detector -> generator of counterfactuals."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from cfexplain.commands.job import Job
from cfexplain.commands.runtime import Device, Runtime, check_device, device_name, start_torch
from cfexplain.data.base import DatasetSpec
from cfexplain.data.exposures.base import ExposureSpec
from cfexplain.detectors.base import DetectorSpec
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import ConfigError, DataError
from cfexplain.explanation.spec import Fit
from cfexplain.generators.base import GeneratorSpec
from cfexplain.reporting.run_folder import check_free_space

if TYPE_CHECKING:
    import torch

    from cfexplain.detectors.network import Detector
    from cfexplain.engine.loop import Learner
    from cfexplain.reporting.console import Reporter
    from cfexplain.types import Splits

__all__ = ["CONFIG", "HEADLINES", "check_device", "dry_run", "next_command", "run", "slug"]
HEADLINES = ("detector_auroc",)
REMEDY = "delete it and run the same command again"
NETWORK_COPIES = 4 * 3  # weights, two moments of Adam, an average; in the last checkpoint, the one before, a new one
PICTURES_MB = 5


class Stage(Enum):
    all = "all"
    detector = "detector"
    generator = "generator"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """conf/train.yaml, typed."""

    dataset: DatasetSpec
    exposure: ExposureSpec
    detector: DetectorSpec
    encoder: EncoderSpec
    generator: GeneratorSpec
    fit: Fit
    runtime: Runtime
    experiment: str | None
    reported: dict[str, float]
    seed: int
    stage: Stage
    device: Device
    output_root: str
    run_dir: str | None
    cache_dir: str
    num_grid_images: int
    dry_run: bool
    json: bool
    allow_custom_code: bool

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and {2**32 - 1}, got {self.seed}")
        if self.num_grid_images < 1:
            raise ValueError(f"num_grid_images must be >= 1, got {self.num_grid_images}")
        if self.stage is Stage.generator and self.run_dir is None:
            raise ConfigError("stage=generator continues a run that holds a detector: add run_dir=<its folder>")
        if not self.exposure.provides_images:
            self._check_exposure()

    def load_splits(self) -> Splits:
        return self.dataset.load(self.exposure)

    def _check_exposure(self) -> None:
        if self.detector.needs_exposure:
            raise ConfigError(
                f"detector={self.detector.name} learns from exposure images and exposure=none gives none: "
                "name another exposure=..., or take detector=dsvdd stage=detector"
            )
        if self.stage is not Stage.detector:
            raise ConfigError(
                "the generator learns from exposure images and exposure=none gives none: name another exposure=..., "
                "or train the detector alone with stage=detector"
            )


CONFIG = TrainConfig


def slug(config: TrainConfig) -> str:
    return f"{config.dataset.slug}-{config.detector.name}"


def next_command(folder: Path, metrics: dict[str, float | str]) -> str:
    if (folder / "checkpoints" / "generator.pt").exists():
        return f"cfexplain explain run={folder}"
    return f"the same command with stage=generator run_dir={folder}"


def run(config: TrainConfig, job: Job) -> dict[str, float | str]:
    device = start_torch(config.runtime, config.device)
    job.folder.update(seed=config.seed, device=device_name(device))
    from cfexplain.reporting.files import write_csv, write_picture
    from cfexplain.reporting.grids import preview_grid
    from cfexplain.reporting.split import split_rows

    with job.timed("data"):
        splits = config.load_splits()
    _say_roles(job.reporter, splits)
    check_free_space(job.folder.path, _wanted_mb(config, splits))
    write_csv(job.folder.path / "split.csv", split_rows(splits))
    write_picture(job.folder.images / "data_preview.png", preview_grid(splits, config.num_grid_images))
    with job.timed("detector"):
        detector = _detector(config, job, splits, device)
    metrics = _detector_metrics(detector, splits, config.seed, device)
    if not metrics:
        job.note("the dataset has no test anomalies: detector_auroc is left out")
    job.folder.write_metrics(metrics)
    if config.stage is not Stage.detector:
        with job.timed("generator"):
            _train_generator(config, job, splits, detector, device)
    return metrics


def dry_run(config: TrainConfig, planned: Path) -> int:
    """Load the data and build the networks; write nothing."""
    import sys

    from cfexplain.reporting.console import Reporter

    reporter = Reporter(sys.stderr if config.json else sys.stdout, history=None)
    device = start_torch(config.runtime, config.device)
    splits = config.load_splits()
    _say_roles(reporter, splits)
    for name, count in _num_parameters(config, splits).items():
        reporter.say(f"{name}: {count:,} parameters")
    reporter.say(f"device: {device_name(device)}")
    reporter.say(f"folder (not made): {planned}")
    return 0


def _say_roles(reporter: Reporter, splits: Splits) -> None:
    """What the images are used for: of a set of many classes the counts, of a folder each group."""
    from cfexplain.data.roles import role_lines

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
    from cfexplain.detectors.network import build_detector
    from cfexplain.explanation.model import build_concept_classifier

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


def _detector(config: TrainConfig, job: Job, splits: Splits, device: torch.device) -> Detector:
    """Fit it, or take it from the run that is continued."""
    from cfexplain.commands.trained_run import load_detector
    from cfexplain.detectors.fitting import LOG_EVERY_STEPS, DetectorLearner
    from cfexplain.engine import checkpoint
    from cfexplain.engine.loop import train

    path = job.folder.checkpoints / "detector.pt"
    if path.exists():
        job.reporter.say(f"detector taken from {path}")
        return load_detector(config, path, REMEDY, device)
    if config.stage is Stage.generator:
        raise ConfigError(f"stage=generator needs {path}: train it first with stage=detector run_dir={config.run_dir}")
    learner = DetectorLearner(config.detector, config.encoder, splits, config.seed, device)
    _continue(learner, job)
    train(
        learner, config.detector.steps, LOG_EVERY_STEPS, job.reporter,
        save=lambda: _save_last(learner, job), save_every_steps=config.fit.checkpoint_every_steps,
    )
    detector = learner.fitted()
    checkpoint.save(path, {"image_shape": list(splits.image_shape), "detector": detector.state_dict()})
    return detector


def _continue(learner: Learner, job: Job) -> None:
    """Take the learner to where its last checkpoint stands, and the history with it."""
    from cfexplain.engine import checkpoint

    found = checkpoint.load_last(job.folder.checkpoints)
    if found is not None and found.values.get("stage", "generator") == learner.stage:
        try:
            learner.load_state_dict(found.values["learner"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{found.path} does not fit this run's config; {REMEDY}") from error
        job.reporter.say(f"{learner.stage} continues at step {learner.steps_done}")
    if found is not None and found.damaged is not None:
        where = f"the one before it, {found.path.name}: {learner.stage} at step {learner.steps_done}"
        job.note(f"{found.damaged} was damaged; the run went on from {where}")
    job.reporter.begin_stage(learner.stage, learner.steps_done)


def _save_last(learner: Learner, job: Job) -> None:
    from cfexplain.engine import checkpoint

    checkpoint.save_last(job.folder.checkpoints, {"stage": learner.stage, "learner": learner.state_dict()})


def _detector_metrics(detector: Detector, splits: Splits, seed: int, device: torch.device) -> dict[str, float | str]:
    from cfexplain.detectors.network import logits_of
    from cfexplain.metrics.auroc import auroc

    if not splits.has_test_anomalies:
        return {}
    normal = logits_of(detector, splits.test_normals.images, device).numpy()
    anomalous = logits_of(detector, splits.test_anomalies.images, device).numpy()
    return {"detector_auroc": auroc(normal, anomalous)}


def _train_generator(
    config: TrainConfig, job: Job, splits: Splits, detector: Detector, device: torch.device
) -> None:
    from cfexplain.engine import checkpoint
    from cfexplain.explanation.explain import explain_images
    from cfexplain.explanation.fitting import CounterfactualLearner, fit_generator
    from cfexplain.reporting.files import write_picture
    from cfexplain.reporting.grids import counterfactual_grid, spread

    learner = CounterfactualLearner(config.generator, config.fit, detector, splits, config.seed, device)
    _continue(learner, job)
    # Pictures while training show exposure images: the test set is for the end.
    shown = splits.exposure.select(_indices(spread(len(splits.exposure), config.num_grid_images)))

    def draw() -> None:
        if learner.steps_done % config.fit.image_every_steps == 0:
            picture = counterfactual_grid(explain_images(learner.fitted(), shown, device), range(len(shown)))
            write_picture(job.folder.images / f"counterfactuals-{learner.steps_done:06d}.png", picture)

    model = fit_generator(learner, job.reporter, on_step=draw, save=lambda: _save_last(learner, job))
    checkpoint.save(job.folder.checkpoints / "generator.pt", {
        "image_shape": list(splits.image_shape),
        "generator": model.generator.state_dict(),
        "concept_classifier": model.concept_classifier.state_dict(),
    })
    anomalies = splits.explained
    anomalies = anomalies.select(_indices(spread(len(anomalies), config.num_grid_images)))
    picture = counterfactual_grid(explain_images(model, anomalies, device), range(len(anomalies)))
    write_picture(job.folder.images / "counterfactuals.png", picture)


def _indices(chosen: list[int]) -> torch.Tensor:
    import torch

    return torch.tensor(chosen, dtype=torch.long)
