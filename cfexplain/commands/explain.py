"""cfexplain explain: counterfactuals of anomalies, as pictures, as samples.csv and as a page."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cfexplain.commands.job import Job
from cfexplain.commands.merge import find_shards, joined, merged
from cfexplain.commands.own_images import find_images, load_images
from cfexplain.commands.runtime import Device, Runtime, check_device, device_name, start_torch
from cfexplain.commands.shard import Shard, as_shard, merge_command, shard_record
from cfexplain.commands.trained_run import TrainedRun, open_run
from cfexplain.errors import ConfigError
from cfexplain.metrics.distance import Distance
from cfexplain.metrics.validity import Validity
from cfexplain.reporting.files import read_json
from cfexplain.reporting.run_folder import parent_runs

if TYPE_CHECKING:
    import torch

    from cfexplain.commands.saved_explanations import SavedExplanations
    from cfexplain.explanation.model import FittedModel
    from cfexplain.types import Explanations, ImageSet

__all__ = ["CONFIG", "HEADLINES", "check_device", "dry_run", "next_command", "run", "slug"]
HEADLINES = ("validity",)
NO_ANOMALIES = "the dataset has no test anomalies: exposure images are explained in their place"


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """conf/explain.yaml, typed."""

    run: str
    runtime: Runtime
    images: list[str] | None
    shard: str | None
    merge: list[str] | None
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
        if self.merge == []:
            raise ValueError("merge must name the shards' folders, or be null")
        _ = self.part
        if self.merge and (self.shard is not None or self.images):
            raise ConfigError("merge joins shards that are there, with their images: leave shard and images out")

    @property
    def part(self) -> Shard | None:
        return None if self.shard is None else as_shard(self.shard)

    def open(self) -> TrainedRun:
        return open_run(self.run, self.output_root, self.cache_dir, self.allow_custom_code)


CONFIG = ExplainConfig


def slug(config: ExplainConfig) -> str:
    return config.open().slug


def next_command(folder: Path, metrics: dict[str, float | str]) -> str:
    shard = read_json(folder / "run.json").get("shard")
    if shard is not None and shard["num_shards"] > 1:
        return f"once all {shard['num_shards']} shards are done: {merge_command(parent_runs(folder)[0], folder)}"
    return f"open {folder / 'report.html'}" if "num_own_images" in metrics else f"cfexplain evaluate run={folder}"


def run(config: ExplainConfig, job: Job) -> dict[str, float | str]:
    trained = config.open()
    shards = find_shards(config.merge, trained.folder) if config.merge else []
    files = find_images(config.images) if config.images else []
    device = start_torch(config.runtime, config.device)
    job.folder.update(seed=trained.config.seed, device=device_name(device))
    job.folder.write_parents([*trained.parents, *(shard.folder for shard in shards)])
    from cfexplain.commands.saved_explanations import save_explanations
    from cfexplain.reporting.files import write_csv
    from cfexplain.reporting.samples import sample_rows

    made = merged(job, shards) if shards else _explained(config, job, trained, files, device)
    explanations, num_images = made.explanations, len(made.explanations.sources)
    save_explanations(job.folder.path, made)
    rows = sample_rows(explanations, made.class_names)
    write_csv(job.folder.path / "samples.csv", rows)
    counted = Counter(str(row["verdict"]) for row in rows)
    job.reporter.say("verdicts: " + ", ".join(f"{name} {counted[name]}" for name in sorted(counted)))
    metrics = {"num_images" if made.of_test_anomalies else "num_own_images": num_images, **_metrics(explanations)}
    job.folder.write_metrics(metrics)
    _draw(config, job, trained, explanations, counted, metrics)
    return metrics


def dry_run(config: ExplainConfig, planned: Path) -> int:
    from cfexplain.commands.train import counts
    from cfexplain.reporting.console import Reporter

    reporter = Reporter(sys.stderr if config.json else sys.stdout, history=None)
    trained = config.open()
    if config.merge:
        shards = find_shards(config.merge, trained.folder)
        reporter.say(f"{len(shards)} shards, {shards[0].shard['num_images_of_all']} images")
        reporter.say(f"folder (not made): {planned}")
        return 0
    device = start_torch(config.runtime, config.device)
    model = trained.load_model(device)
    if config.images:
        num_images = len(load_images(find_images(config.images), trained.image_shape()))
        reporter.say(f"images: {num_images} of your own")
    else:
        splits = trained.config.load_splits()
        num_images = len(splits.explained)
        reporter.say(counts(splits))
    if config.part is not None:
        part = config.part.part(num_images, config.batch_size)
        reporter.say(f"shard {config.part}: images {part.start} to {part.stop - 1} of {num_images}")
    for name, network in (("detector", model.detector), ("generator", model.generator)):
        reporter.say(f"{name}: {sum(part.numel() for part in network.parameters()):,} parameters")
    reporter.say(f"device: {device_name(device)}")
    reporter.say(f"folder (not made): {planned}")
    return 0


def _explained(
    config: ExplainConfig, job: Job, trained: TrainedRun, files: list[str], device: torch.device
) -> SavedExplanations:
    """Of the test anomalies or own images, all or a shard."""
    from cfexplain.commands.saved_explanations import SavedExplanations

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
    shard, of_all = None, ""
    if config.part is not None:
        part = config.part.part(len(sources), config.batch_size)
        shard, of_all = shard_record(config.part, part, sources, trained.folder), f" of {len(sources)}"
        job.folder.update(shard=shard)
        sources = _rows(sources, part)
    job.reporter.say(
        f"explaining {len(sources)} images{of_all}, {model.num_concepts} concepts, {model.num_alpha_bins} scores"
    )
    with job.timed("explain"):
        explanations = _explain_by_batch(model, sources, device, config.batch_size)
    return SavedExplanations(
        explanations=explanations, of_test_anomalies=not files, class_names=class_names, shard=shard
    )


def _explain_by_batch(
    model: FittedModel, sources: ImageSet, device: torch.device, batch_size: int
) -> Explanations:
    """Each batch for itself, detector's scores included: a batch gives the same bits in whichever shard it is."""
    from cfexplain.explanation.explain import explain_images

    starts = range(0, max(len(sources), 1), batch_size)
    batches = [_rows(sources, range(start, min(start + batch_size, len(sources)))) for start in starts]
    return joined([explain_images(model, batch, device, batch_size) for batch in batches], sources)


def _rows(sources: ImageSet, part: range) -> ImageSet:
    import torch

    return sources.select(torch.arange(part.start, part.stop))


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
    from cfexplain.reporting.files import write_picture
    from cfexplain.reporting.grids import as_scores, counterfactual_grid, difference_grid, film_strip, spread
    from cfexplain.reporting.html import write_report

    images, chosen = job.folder.images, spread(len(explanations.sources), config.num_grid_images)
    write_picture(images / "counterfactuals.png", counterfactual_grid(explanations, chosen))
    write_picture(images / "differences.png", difference_grid(explanations, chosen))
    pictures = [
        ("Anomalies and their counterfactuals, with anomaly scores", images / "counterfactuals.png"),
        ("What changed: blue darker, red brighter", images / "differences.png"),
    ]
    for number, index in enumerate(spread(len(explanations.sources), config.num_film_strips)):
        file = images / f"film-strip-{number}.png"
        write_picture(file, film_strip(explanations, index))
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
