"""cfexplain explain: counterfactuals of anomalies, inspected, as pictures, as samples.csv and as a page."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cfexplain.commands.base import Command, Job
from cfexplain.commands.explain_results import write_results
from cfexplain.commands.judging_config import ExplainConfig
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.data.own_images import ExplainedImages, find_images, own_images, test_anomalies
from cfexplain.data.reading.image_files import read_mask
from cfexplain.data.recorded_split import contents, digest_of
from cfexplain.data.splits import counts
from cfexplain.errors import DataError
from cfexplain.explanation.explain import box_region, Confined, explain_images, FittedModel
from cfexplain.inspection.inspect import inspect
from cfexplain.inspection.reference import Reference
from cfexplain.inspection.saved import SavedInspections
from cfexplain.inspection.shards import find_shards, merge_command, shard_record, ShardRun, weights_digest
from cfexplain.lazy import Tensor, torch
from cfexplain.runs.lookup import parent_runs, read_record
from cfexplain.types import Splits

NO_ANOMALIES = "the dataset has no test anomalies: exposure images are explained in their place"
TICKS = 10  # progress lines of a run


class Explain(Command):
    """Counterfactuals of the test anomalies, of one's own images, of a shard of either; or shards made one run."""

    config_type = ExplainConfig
    headlines = ("validity", "share_ok")
    config: ExplainConfig

    @property
    def slug(self) -> str:
        return self.config.open().slug

    def next_command(self, folder: Path, metrics: dict[str, float | str]) -> str:
        shard = read_record(folder).get("shard")
        if shard is not None and shard["num_shards"] > 1:
            return f"once all {shard['num_shards']} shards are done: {merge_command(parent_runs(folder)[0], folder)}"
        return super().next_command(folder, metrics) if "num_own_images" in metrics else (
            f"cfexplain evaluate run={folder}"
        )

    def run(self, job: Job) -> dict[str, float | str]:
        config, trained = self.config, self.config.open()
        shards = find_shards(config.merge, trained.folder) if config.merge else []
        files = find_images(config.images or [])
        parents = [*trained.parents, *(shard.folder for shard in shards)]
        device = job.start(config, trained.config.seed, parents)
        remedy = f"explain again: cfexplain explain run={trained.folder}"
        saved = SavedInspections(folder=job.folder.path, remedy=remedy)
        if shards:
            _merge(job, saved, shards)
        else:
            _inspect_all(config, job, trained, saved, files, device)
        with job.timed("report"):
            return write_results(job, saved, trained, config)

    def plan(self, device: torch.device) -> Iterator[str]:
        config, trained = self.config, self.config.open()
        if config.merge:
            shards = find_shards(config.merge, trained.folder)
            yield f"{len(shards)} shards, {shards[0].shard['num_images_of_all']} images"
            return
        files = find_images(config.images or [])
        model = trained.load_model(device)
        splits = trained.load_splits()
        images = _images(files, trained, splits)
        yield f"images: {len(images)} of your own" if files else counts(splits)
        if config.part is not None:
            part = config.part.part(len(images), config.batch_size)
            yield f"shard {config.part}: images {part.start} to {part.stop - 1} of {len(images)}"
        for name, network in (("detector", model.detector), ("generator", model.generator)):
            yield f"{name}: {sum(part.numel() for part in network.parameters()):,} parameters"


COMMAND = Explain


def _images(files: list[str], trained: TrainedRun, splits: Splits) -> ExplainedImages:
    return own_images(files, trained.image_shape(), trained.bits) if files else test_anomalies(splits)


def _merge(job: Job, saved: SavedInspections, shards: list[ShardRun]) -> None:
    """The shards' batches as this run's own, which are those of an unsharded run, and what the shards noted."""
    for note in dict.fromkeys(note for shard in shards for note in shard.record["warnings"]):
        job.note(note)
    devices = sorted({str(shard.record.get("device")) for shard in shards})
    job.folder.update(device=", ".join(devices))
    if len(devices) > 1:
        job.note(f"the shards ran on different devices ({', '.join(devices)}), whose numbers differ in their last bits")
    parts = [SavedInspections(folder=shard.folder, remedy=f"run it again: {shard.command}") for shard in shards]
    with job.timed("merge"):
        for part in parts:
            part.check_whole()
        saved.begin({**parts[0].index, "shard": None})
        for file in (file for part in parts for file in part.files):
            saved.copy(file)
    job.reporter.say(f"merged {len(shards)} shards: {shards[0].shard['num_images_of_all']} images")


def _inspect_all(
    config: ExplainConfig, job: Job, trained: TrainedRun, saved: SavedInspections, files: list[str],
    device: torch.device,
) -> None:
    """Explain and inspect batch by batch, each on disk before the next; batches of an earlier attempt stay."""
    model = trained.load_model(device)
    region = _region(config, trained)
    if region is not None:
        model = replace(model, generator=Confined(model.generator, region.to(device)))
    with job.timed("data"):
        splits = trained.load_splits()
    images = _images(files, trained, splits)
    if not (files or splits.has_test_anomalies):
        job.note(NO_ANOMALIES)
    part, of_all, shard = range(len(images)), "", None
    if config.part is not None:
        part = config.part.part(len(images), config.batch_size)
        shard, of_all = shard_record(config.part, part, images, trained.folder), f" of {len(images)}"
        job.folder.update(shard=shard)
    with job.timed("reference"):
        reference = config.reference(trained, model, splits, device, job.reporter_of("second detector"))
        job.reporter.end_stage()
    normals = splits.train
    digest = None if region is None else hashlib.sha256(region.numpy().tobytes()).hexdigest()
    saved.begin({
        **_index(config, trained, images, reference, shard), "region_digest": digest,
        "normals_digest": digest_of(normals.ids, contents(normals, splits)),
        "second_detector_digest": config.second_detector_digest(),
    })
    job.reporter.say(
        f"explaining {len(part)} images{of_all}, {model.num_concepts} concepts, {model.num_alpha_bins} scores"
    )
    with job.timed("explain"):
        _inspect_batches(job, model, images, part, reference, saved, device, config.batch_size)


def _region(config: ExplainConfig, trained: TrainedRun) -> Tensor | None:
    """(H, W) bool, where edits are wanted; None: anywhere."""
    if config.mask:
        path = Path(config.mask).expanduser()
        return torch.from_numpy(read_mask(path, path, trained.image_shape()[1:]))
    return None if config.box is None else box_region(config.box, *trained.image_shape()[1:])


def _inspect_batches(
    job: Job, model: FittedModel, images: ExplainedImages, part: range, reference: Reference, saved: SavedInspections,
    device: torch.device, batch_size: int,
) -> None:
    """Each batch for itself: it gives the same bits in whichever shard it is."""
    num_done, num_unread, next_tick = 0, 0, 0
    for start in range(part.start, part.stop, batch_size):
        wanted, number = range(start, min(start + batch_size, part.stop)), start // batch_size
        if not saved.has(number):
            batch = images.load(wanted)
            num_unread += len(wanted) - len(batch)
            if len(batch):
                explanations = explain_images(model, batch, device, batch_size, threshold=reference.threshold)
                saved.save(number, inspect(model, explanations, reference, device))
        num_done += len(wanted)
        if num_done * TICKS >= next_tick * len(part):
            job.reporter.say(f"  {num_done} of {len(part)} images")
            next_tick = num_done * TICKS // len(part) + 1
    if num_unread:
        job.note(f"{num_unread} of {len(part)} images could not be read and are left out; {job.folder.path}/"
                 "cfexplain.log names each")
    if not saved.files:
        raise DataError(f"images: none of the {len(part)} files could be read, see {job.folder.path}/cfexplain.log")


def _index(
    config: ExplainConfig, trained: TrainedRun, images: ExplainedImages, reference: Reference,
    shard: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "of_test_anomalies": not images.are_own,
        "class_names": list(images.class_names),
        "num_images": len(images),
        "images_digest": images.digest,
        "weights_digest": weights_digest(trained.folder),
        "false_alarm_rate": config.false_alarm_rate,
        "threshold": reference.threshold,
        "num_held_out": len(reference.normal_logits),
        "normal_survival": None if math.isnan(reference.normal_survival) else reference.normal_survival,
        "features": reference.features.name,
        "second_detector": config.second_detector,
        "shard": shard,
    }
