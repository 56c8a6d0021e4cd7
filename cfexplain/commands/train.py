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
from cfexplain.errors import ConfigError
from cfexplain.explanation.spec import Fit
from cfexplain.generators.base import GeneratorSpec

if TYPE_CHECKING:
    import torch

    from cfexplain.detectors.network import Detector
    from cfexplain.explanation.fitting import CounterfactualLearner
    from cfexplain.reporting.console import Reporter
    from cfexplain.types import Splits

__all__ = ["CONFIG", "HEADLINES", "check_device", "dry_run", "next_command", "run", "slug"]
HEADLINES = ("detector_auroc",)
REMEDY = "delete it and run the same command again"


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
    from cfexplain.reporting.files import write_csv
    from cfexplain.reporting.grids import preview_grid
    from cfexplain.reporting.split import split_rows

    with job.timed("data"):
        splits = config.load_splits()
    _say_roles(job.reporter, splits)
    write_csv(job.folder.path / "split.csv", split_rows(splits))
    preview_grid(splits, config.num_grid_images).save(job.folder.images / "data_preview.png")
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


def _detector(config: TrainConfig, job: Job, splits: Splits, device: torch.device) -> Detector:
    """Fit it, or take it from the run that is continued."""
    from cfexplain.engine import checkpoint
    from cfexplain.commands.trained_run import load_detector
    from cfexplain.detectors.fitting import fit_detector

    path = job.folder.checkpoints / "detector.pt"
    if path.exists():
        job.reporter.say(f"detector taken from {path}")
        return load_detector(config, path, REMEDY, device)
    if config.stage is Stage.generator:
        raise ConfigError(f"stage=generator needs {path}: train it first with stage=detector run_dir={config.run_dir}")
    job.reporter.begin_stage("detector", 0)
    detector = fit_detector(config.detector, config.encoder, splits, config.seed, device, job.reporter)
    checkpoint.save(path, {"image_shape": list(splits.image_shape), "detector": detector.state_dict()})
    return detector


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
    from cfexplain.reporting.grids import counterfactual_grid, spread

    learner = CounterfactualLearner(config.generator, config.fit, detector, splits, config.seed, device)
    last = job.folder.checkpoints / "last.pt"
    if last.exists():
        learner.load_state_dict(checkpoint.load(last, REMEDY)["learner"])
        job.reporter.say(f"generator continues at step {learner.steps_done}")
    job.reporter.begin_stage("generator", learner.steps_done)
    # Pictures while training show exposure images: the test set is for the end.
    shown = splits.exposure.select(_indices(spread(len(splits.exposure), config.num_grid_images)))

    def on_step(learner: CounterfactualLearner) -> None:
        step = learner.steps_done
        if step % config.fit.checkpoint_every_steps == 0 or step == config.fit.steps:
            checkpoint.save(last, {"learner": learner.state_dict()})
        if step % config.fit.image_every_steps == 0:
            picture = counterfactual_grid(explain_images(learner.fitted(), shown, device), range(len(shown)))
            picture.save(job.folder.images / f"counterfactuals-{step:06d}.png")

    model = fit_generator(learner, job.reporter, on_step)
    checkpoint.save(job.folder.checkpoints / "generator.pt", {
        "image_shape": list(splits.image_shape),
        "generator": model.generator.state_dict(),
        "concept_classifier": model.concept_classifier.state_dict(),
    })
    anomalies = splits.explained
    anomalies = anomalies.select(_indices(spread(len(anomalies), config.num_grid_images)))
    picture = counterfactual_grid(explain_images(model, anomalies, device), range(len(anomalies)))
    picture.save(job.folder.images / "counterfactuals.png")


def _indices(chosen: list[int]) -> torch.Tensor:
    import torch

    return torch.tensor(chosen, dtype=torch.long)
