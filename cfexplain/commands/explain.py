"""cfexplain explain: counterfactuals of anomalies, as pictures, as samples.csv and as a page."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cfexplain.commands.job import Job
from cfexplain.commands.own_images import find_images, load_images
from cfexplain.commands.runtime import Device, Runtime, check_device, device_name, start_torch
from cfexplain.commands.trained_run import TrainedRun, open_run
from cfexplain.metrics.distance import Distance
from cfexplain.metrics.validity import Validity

if TYPE_CHECKING:
    from cfexplain.types import Explanations

__all__ = ["CONFIG", "HEADLINES", "check_device", "dry_run", "next_command", "run", "slug"]
HEADLINES = ("validity",)
NO_ANOMALIES = "the dataset has no test anomalies: exposure images are explained in their place"


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """conf/explain.yaml, typed."""

    run: str
    runtime: Runtime
    images: list[str] | None
    batch_size: int
    num_grid_images: int
    num_film_strips: int
    device: Device
    output_root: str
    run_dir: str | None
    cache_dir: str
    dry_run: bool
    json: bool
    allow_custom_code: bool

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_grid_images", 1), ("num_film_strips", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if self.images == []:
            raise ValueError("images must name at least one file, or be null for the test anomalies")

    def open(self) -> TrainedRun:
        return open_run(self.run, self.output_root, self.cache_dir, self.allow_custom_code)


CONFIG = ExplainConfig


def slug(config: ExplainConfig) -> str:
    return config.open().slug


def next_command(folder: Path, metrics: dict[str, float | str]) -> str:
    return f"open {folder / 'report.html'}" if "num_own_images" in metrics else f"cfexplain evaluate run={folder}"


def run(config: ExplainConfig, job: Job) -> dict[str, float | str]:
    trained = config.open()
    files = find_images(config.images) if config.images else []
    device = start_torch(config.runtime, config.device)
    job.folder.update(seed=trained.config.seed, device=device_name(device))
    job.folder.write_parents(trained.parents)
    from cfexplain.commands.saved_explanations import save_explanations
    from cfexplain.explanation.explain import explain_images
    from cfexplain.reporting.files import write_csv
    from cfexplain.reporting.samples import sample_rows

    model = trained.load_model(device)
    class_names: tuple[str, ...] = ()
    with job.timed("data"):
        if files:
            sources = load_images(files, trained.image_shape())
        else:
            splits = trained.config.load_splits()
            sources, class_names = splits.explained, splits.class_names
            if not splits.has_test_anomalies:
                job.note(NO_ANOMALIES)
    job.reporter.say(f"explaining {len(sources)} images, {model.num_concepts} concepts, {model.num_alpha_bins} scores")
    with job.timed("explain"):
        explanations = explain_images(model, sources, device, config.batch_size)
    save_explanations(job.folder.path, explanations, of_test_anomalies=not files)
    rows = sample_rows(explanations, class_names)
    write_csv(job.folder.path / "samples.csv", rows)
    counted = Counter(str(row["verdict"]) for row in rows)
    job.reporter.say("verdicts: " + ", ".join(f"{name} {counted[name]}" for name in sorted(counted)))
    metrics = {"num_own_images" if files else "num_images": len(sources), **_metrics(explanations)}
    job.folder.write_metrics(metrics)
    _draw(config, job, trained, explanations, counted, metrics)
    return metrics


def dry_run(config: ExplainConfig, planned: Path) -> int:
    from cfexplain.commands.train import counts
    from cfexplain.reporting.console import Reporter

    reporter = Reporter(sys.stderr if config.json else sys.stdout, history=None)
    trained = config.open()
    device = start_torch(config.runtime, config.device)
    model = trained.load_model(device)
    if config.images:
        reporter.say(f"images: {len(load_images(find_images(config.images), trained.image_shape()))} of your own")
    else:
        reporter.say(counts(trained.config.load_splits()))
    for name, network in (("detector", model.detector), ("generator", model.generator)):
        reporter.say(f"{name}: {sum(part.numel() for part in network.parameters()):,} parameters")
    reporter.say(f"device: {device_name(device)}")
    reporter.say(f"folder (not made): {planned}")
    return 0


def _metrics(explanations: Explanations) -> dict[str, float | str]:
    """What follows from the explanations alone; the same formulas as evaluate's."""
    from cfexplain.metrics.distance import l1_distance

    valid = explanations.logits[:, 0] <= explanations.threshold
    return {
        "validity": valid.double().mean().item(),
        "l1_distance": l1_distance(explanations.sources.images, explanations.counterfactuals),
    }


def _draw(
    config: ExplainConfig, job: Job, trained: TrainedRun, explanations: Explanations, counted: Counter[str],
    metrics: dict[str, float | str],
) -> None:
    from cfexplain.reporting.grids import as_scores, counterfactual_grid, difference_grid, film_strip, spread
    from cfexplain.reporting.html import write_report

    images, chosen = job.folder.images, spread(len(explanations.sources), config.num_grid_images)
    counterfactual_grid(explanations, chosen).save(images / "counterfactuals.png")
    difference_grid(explanations, chosen).save(images / "differences.png")
    pictures = [
        ("Anomalies and their counterfactuals, with anomaly scores", images / "counterfactuals.png"),
        ("What changed: blue darker, red brighter", images / "differences.png"),
    ]
    for number, index in enumerate(spread(len(explanations.sources), config.num_film_strips)):
        file = images / f"film-strip-{number}.png"
        film_strip(explanations, index).save(file)
        pictures.append((f"From anomalous to normal: {explanations.sources.ids[index]}", file))
    threshold = float(as_scores(explanations.logits.new_tensor([explanations.threshold]).numpy())[0])
    facts = {
        "trained model": trained.folder,
        "images explained": len(explanations.sources),
        "verdicts": ", ".join(f"{name} {counted[name]}" for name in sorted(counted)),
        "counts as normal": f"score at or below {threshold:.4f}",
    }
    meanings = Validity.meanings | Distance.meanings
    write_report(job.folder.path / "report.html", f"Explanations: {trained.slug}", facts, pictures, metrics, meanings)
