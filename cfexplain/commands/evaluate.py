"""cfexplain evaluate: every metric of a run, in metrics.json, as a table and as a page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from cfexplain.commands.base import Command, Job
from cfexplain.commands.compare import CompareRuns
from cfexplain.commands.judging_config import EvaluateConfig, HEADLINES, refitted_detector
from cfexplain.commands.sheet import MakeSheet, ReadSheet
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.data.splits import counts
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.detectors.fitting import fit_detector
from cfexplain.engine.runtime import autocast_dtype
from cfexplain.explanation.explain import explain_images
from cfexplain.lazy import torch
from cfexplain.metrics.base import MetricInputs
from cfexplain.metrics.transfer import SEED_OFFSET
from cfexplain.reporting.grids import counterfactual_grid, spread, write_picture
from cfexplain.reporting.html import write_report
from cfexplain.reporting.tables import print_metrics
from cfexplain.types import Explanations, Splits

PAPER_NOTE = (
    "the paper's numbers are means over the settings of a table row and come second hand; its FID uses Inception "
    "features (metric.fid.features=inception)"
)


class Evaluate(Command):
    """Every metric of one run. The config may ask for a comparison of runs, or for a sheet, in its place."""

    config_type = EvaluateConfig
    headlines = HEADLINES
    config: EvaluateConfig

    @classmethod
    def of(cls, config: EvaluateConfig) -> Command:
        if config.compare:
            return CompareRuns(config)
        if config.sheet_answers:
            return ReadSheet(config)
        return MakeSheet(config) if config.sheet else cls(config)

    @property
    def slug(self) -> str:
        return self.config.open().slug

    def run(self, job: Job) -> dict[str, float | str]:
        config, trained = self.config, self.config.open()
        seed = trained.config.seed if config.seed is None else config.seed
        device = job.start(config, seed, trained.parents)
        with job.timed("data"):
            splits = trained.load_splits()
        with job.timed("explain"):
            inputs = _inputs(config, job, trained, splits, device, seed)
        metrics: dict[str, float | str] = {}
        for number, (name, spec) in enumerate(config.metric.items(), start=1):
            job.reporter.say(f"metric {number}/{len(config.metric)}: {name}")
            with job.timed(name):
                metrics |= spec.compute(inputs)
            job.folder.write_metrics(metrics)  # after each: a later failure must not cost the earlier numbers
        _report(config, job, trained, inputs.explanations, metrics)
        return metrics

    def plan(self, device: torch.device) -> Iterator[str]:
        trained = self.config.open()
        trained.load_model(device)
        yield counts(trained.load_splits())
        yield f"run: {trained.folder}; metrics: {', '.join(self.config.metric)}"


COMMAND = Evaluate


def _inputs(
    config: EvaluateConfig, job: Job, trained: TrainedRun, splits: Splits, device: torch.device, seed: int
) -> MetricInputs:
    model = trained.load_model(device)
    if trained.explained is None:
        explanations = explain_images(model, splits.explained, device)
    else:
        explanations = trained.saved_explanations(splits)
    numbers = itertools.count(1)
    fitted: dict[int, Detector] = {}  # by their seed, to the run's own splits: several metrics ask for the same one

    def refit(other: Splits, seed: int) -> Detector:
        if other is splits and seed in fitted:
            return fitted[seed]
        stage = f"refit {next(numbers)} of the detector"
        job.reporter.begin_stage(stage, 0)
        report = job.reporter_of(stage)
        if other is splits and seed == trained.config.seed + SEED_OFFSET:  # explain's second detector
            detector = refitted_detector(trained, splits, device, Path(config.cache_dir), report)
        else:
            spec, dtype = trained.config.detector.second, autocast_dtype(trained.config.runtime, device)
            detector = fit_detector(spec, trained.config.encoder, other, seed, device, report, dtype)
        if other is splits:
            fitted[seed] = detector
        return detector

    return MetricInputs(
        splits=splits,
        model=model,
        explanations=explanations,
        explain=lambda images: explain_images(model, images, device),
        fit_detector=refit,
        device=device,
        seed=seed,
        cache_dir=Path(config.cache_dir),
        test_normal_logits=logits_of(model.detector, splits.test_normals.images, device),
        metrics=config.metric,
    )


def _report(
    config: EvaluateConfig, job: Job, trained: TrainedRun, explanations: Explanations,
    metrics: dict[str, float | str],
) -> None:
    job.reporter.end_stage()
    reported = trained.config.reported
    if reported:
        job.note(PAPER_NOTE)
    meanings = {key: value for spec in config.metric.values() for key, value in spec.meanings.items()}
    print_metrics(metrics, meanings, job.reporter.stream, reported)
    picture = job.folder.images / "counterfactuals.png"
    grid = counterfactual_grid(explanations, spread(len(explanations.sources), config.num_grid_images))
    write_picture(picture, grid)
    facts = {
        "trained model": trained.folder,
        "images explained": len(explanations.sources),
        "seed of the judges": job.folder.record["seed"],
    }
    pictures = [("Anomalies and their counterfactuals, with anomaly scores", picture)]
    notes = job.folder.record["warnings"]
    title = f"Evaluation: {trained.slug}"
    write_report(job.folder.path / "report.html", title, facts, pictures, metrics, meanings, notes, reported)
