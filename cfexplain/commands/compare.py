"""cfexplain evaluate compare=[runA,runB]: trained runs side by side on the same images.

The runs are named a, b, c ... in the order given. Scores of different detectors are on different scales, so each is
read against its own threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cfexplain.commands.base import Command, Job
from cfexplain.commands.judging_config import EvaluateConfig, HEADLINES, RUN_NAMES
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.data.own_images import ExplainedImages, find_images, own_images, test_anomalies
from cfexplain.errors import ConfigError
from cfexplain.files import write_csv
from cfexplain.inspection.comparison import (
    ComparedRun, comparison_meanings, comparison_metrics, run_verdicts, RunVerdicts,
)
from cfexplain.lazy import torch
from cfexplain.reporting.comparison import compared_image, shown_images, write_comparison
from cfexplain.reporting.grids import score_of
from cfexplain.reporting.samples import comparison_rows
from cfexplain.reporting.tables import print_metrics
from cfexplain.types import Splits

NO_KAPPA = "cohens_kappa left out: every run says the same of all images"


def open_runs(config: EvaluateConfig) -> list[TrainedRun]:
    """The runs, each once; torch stays unloaded."""
    runs = [config.open_run(run) for run in config.compare]
    folders = [run.folder.resolve() for run in runs]
    for text, folder in zip(config.compare, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError(f"compare names {text} twice: give different runs")
    return runs


class CompareRuns(Command):
    """evaluate compare=[runA,runB]."""

    config_type = EvaluateConfig
    headlines = HEADLINES
    config: EvaluateConfig

    @property
    def slug(self) -> str:
        return "compare-" + "-".join(dict.fromkeys(run.slug for run in open_runs(self.config)))

    def run(self, job: Job) -> dict[str, float | str]:
        config, opened = self.config, open_runs(self.config)
        files = find_images(config.images or [])
        device = job.start(config, opened[0].config.seed, [trained.folder for trained in opened])
        with job.timed("data"):
            splits = [trained.load_splits() for trained in opened]
            images = _images(opened, files, splits[0])
        with job.timed("reference"):
            runs = [
                _compared_run(config, job, name, *parts, device)
                for name, parts in zip(RUN_NAMES, zip(opened, splits, images, strict=True), strict=False)
            ]
        job.reporter.say(f"comparing {len(runs)} runs on {len(images[0])} images")
        with job.timed("compare"):
            verdicts = [run_verdicts(run, runs, device) for run in runs]
        if num_unread := len(images[0]) - len(verdicts[0].names):
            job.note(f"{num_unread} of {len(images[0])} images cannot be read and are left out; cfexplain.log names "
                     "each")
        write_csv(job.folder.path / "comparison.csv", comparison_rows(runs, verdicts))
        metrics = comparison_metrics(runs, verdicts)
        if "cohens_kappa" not in metrics:
            job.note(NO_KAPPA)
        job.folder.write_metrics(metrics)
        _report(config, job, opened, runs, verdicts, metrics, device)
        return metrics

    def plan(self, device: torch.device) -> Iterator[str]:
        runs = open_runs(self.config)
        files = find_images(self.config.images or [])
        images = _images(runs, files, None if files else runs[0].load_splits())
        for name, run in zip(RUN_NAMES, runs, strict=False):
            run.load_model(device)
            yield f"{name}: {run.folder}, {len(images[0])} images of {_size(run.image_shape())}"


def _images(runs: list[TrainedRun], files: list[str], first: Splits | None) -> list[ExplainedImages]:
    """For each run the images in its size: own ones, or the test anomalies of the first run."""
    shapes = [run.image_shape() for run in runs]
    if files:
        return [own_images(files, shape, run.bits) for run, shape in zip(runs, shapes, strict=True)]
    if len(set(shapes)) > 1:
        sizes = ", ".join(f"{name} {_size(shape)}" for name, shape in zip(RUN_NAMES, shapes, strict=False))
        raise ConfigError(f"the compared runs take images of different sizes ({sizes}); name your own with images=")
    assert first is not None
    return [test_anomalies(first)] * len(runs)


def _compared_run(
    config: EvaluateConfig, job: Job, name: str, trained: TrainedRun, splits: Splits, images: ExplainedImages,
    device: torch.device,
) -> ComparedRun:
    """With the reference of cfexplain explain, so that the verdicts are the same."""
    model = trained.load_model(device)
    reference = config.reference(trained, model, splits, device, job.reporter_of(f"second detector of {name}"))
    job.reporter.end_stage()
    return ComparedRun(
        name=name, image_shape=trained.image_shape(), model=model, reference=reference, images=images
    )


def _report(
    config: EvaluateConfig, job: Job, opened: list[TrainedRun], runs: list[ComparedRun], verdicts: list[RunVerdicts],
    metrics: dict[str, float | str], device: torch.device,
) -> None:
    meanings = comparison_meanings(metrics, runs)
    print_metrics(metrics, meanings, job.reporter.stream)
    chosen = shown_images(verdicts, config.num_compared_images)
    images = [compared_image(runs, verdicts, index, device) for index in chosen]
    facts: dict[str, object] = {f"run {run.name}": trained.folder for run, trained in zip(runs, opened, strict=True)}
    for run in runs:
        facts[f"{run.name} counts as normal"] = f"score at or below {score_of(run.reference.threshold):.6g}"
    facts["second detector of the verdicts"] = config.second_detector
    title = f"Comparison: {' and '.join(dict.fromkeys(trained.slug for trained in opened))}"
    write_comparison(
        job.folder.path / "report.html", title, facts, metrics, meanings, job.folder.record["warnings"], images
    )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
