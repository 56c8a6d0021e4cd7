"""shard=i/n: the i-th of n parts of the images, so that n jobs can explain a set together; merge= makes them one run.

A part is a run of whole batches, the same that an unsharded run would make: numbers depend, in their last bits, on the
batch they were computed in.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfexplain import config as configs
from cfexplain.data.own_images import ExplainedImages
from cfexplain.errors import ConfigError, DataError
from cfexplain.files import check_kinds
from cfexplain.runs.lookup import parent_runs, read_record

# What neither changes a shard's numbers nor belongs to its part.
PICTURES = ("num_grid_images", "num_film_strips", "num_cards")
KINDS = {  # of what run.json says of a shard
    "index": int, "num_shards": int, "first_image": int, "num_images": int, "num_images_of_all": int,
    "images_digest": str, "weights_digest": str,
}
MAY_DIFFER = (*configs.PLACES, *PICTURES, "run", "shard", "merge", "runtime.num_threads")


@dataclass(frozen=True)
class Shard:
    """index: 1 to num_shards."""

    index: int
    num_shards: int

    def __str__(self) -> str:
        return f"{self.index}/{self.num_shards}"

    def part(self, num_images: int, batch_size: int) -> range:
        """Which of the images it takes; every shard holds at least one batch, or ConfigError."""
        num_batches = -(-num_images // batch_size)
        if num_batches < self.num_shards:
            raise ConfigError(_too_many(self, num_images, num_batches, batch_size))
        first, end = (number * num_batches // self.num_shards * batch_size for number in (self.index - 1, self.index))
        return range(first, min(end, num_images))


def as_shard(text: str) -> Shard:
    """'2/8' -> Shard(2, 8). ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard must be i/n with i from 1 to n, like 2/8, got {text}")
    return Shard(int(match[1]), int(match[2]))


def shard_record(shard: Shard, part: range, images: ExplainedImages, train_folder: Path) -> dict[str, Any]:
    """What run.json says of a shard: which it is, and of which whole."""
    return {
        "index": shard.index,
        "num_shards": shard.num_shards,
        "first_image": part.start,
        "num_images": len(part),
        "num_images_of_all": len(images),
        "images_digest": images.digest,
        "weights_digest": weights_digest(train_folder),
    }


def weights_digest(train_folder: Path) -> str:
    """Sixteen hex digits of a train run's networks."""
    weights = hashlib.sha256()
    for name in ("detector.pt", "generator.pt"):
        weights.update((train_folder / "checkpoints" / name).read_bytes())
    return weights.hexdigest()[:16]


def merge_command(train_folder: Path, folder: Path) -> str:
    """What to type once all shards beside `folder` are there."""
    return f"cfexplain explain run={train_folder} 'merge=[{folder.parent}/*]'"


def _too_many(shard: Shard, num_images: int, num_batches: int, batch_size: int) -> str:
    if shard.num_shards > num_images:
        return f"shard={shard}: there are only {num_images} images; take at most {num_images} shards"
    largest = (num_images - 1) // (shard.num_shards - 1)  # that still gives num_shards batches
    return (
        f"shard={shard}: {num_images} images are {num_batches} batches of {batch_size}, and a shard takes whole "
        f"batches; take at most {num_batches} shards, or batch_size={largest} for all of them"
    )


@dataclass(frozen=True, kw_only=True)
class ShardRun:
    """A finished explain run with a shard: its folder, its run.json, and the part of that which names the shard."""

    folder: Path
    record: dict[str, Any]

    @property
    def shard(self) -> dict[str, Any]:
        return self.record["shard"]

    @property
    def index(self) -> int:
        return self.shard["index"]

    @property
    def command(self) -> str:
        """What to type to run it again, in a new folder."""
        return " ".join(word for word in self.record["argv"] if not word.startswith("run_dir="))


def find_shards(patterns: Sequence[str], train_folder: Path) -> list[ShardRun]:
    """The runs that the patterns name, in the shards' order. DataError unless they make up one whole set."""
    found: list[ShardRun] = []
    for pattern in patterns:
        folders = sorted(Path(name) for name in glob.glob(os.path.expanduser(pattern), recursive=True))
        runs = [run for folder in folders if (run := _shard_run(folder)) is not None]
        if glob.has_magic(pattern):  # the folder beside may hold other runs
            runs = [run for run in runs if _explains(run, train_folder)]
        if not runs:
            raise DataError(f"merge: {pattern} is, or matches, no explain run with a shard; name the shards' folders")
        found += runs
    by_folder = {run.folder.resolve(): run for run in found}
    runs = sorted(by_folder.values(), key=lambda run: (run.index, run.folder))
    unfinished = [run for run in runs if run.record.get("status") != "done"]
    done = [run for run in runs if run not in unfinished]
    _check_complete(done or unfinished, unfinished)
    _check_same(done, train_folder)
    return done


def _shard_run(folder: Path) -> ShardRun | None:
    if not os.path.isfile(folder / "run.json"):
        return None
    record = read_record(folder)
    if record["command"] != "explain" or record.get("shard") is None:
        return None
    check_kinds(folder / "run.json", record["shard"], KINDS)
    return ShardRun(folder=folder, record=record)


def _explains(run: ShardRun, train_folder: Path) -> bool:
    return any(parent.resolve() == train_folder.resolve() for parent in parent_runs(run.folder)[:1])


def _check_complete(done: list[ShardRun], unfinished: list[ShardRun]) -> None:
    """Each shard of one total exactly once."""
    totals = sorted({run.shard["num_shards"] for run in done})
    if len(totals) > 1:
        examples = [next(run for run in done if run.shard["num_shards"] == total) for total in totals]
        words = ", ".join(f"{run.folder} is {run.index}/{run.shard['num_shards']}" for run in examples)
        raise DataError(f"merge: the shards are not of one total ({words}); name those of one")
    for before, run in zip(done, done[1:], strict=False):
        if before.index == run.index:
            raise DataError(
                f"merge: shard {run.index}/{totals[0]} is there twice, in {before.folder} and {run.folder}; name one"
            )
    there = {run.index for run in done if run not in unfinished}
    missing = [index for index in range(1, totals[0] + 1) if index not in there]
    if missing:
        ended = [f"{run.folder} is {run.record.get('status')}" for run in unfinished if run.index in missing]
        why = f" ({', '.join(ended)})" if ended else ""
        shards = ", ".join(f"{index}/{totals[0]}" for index in missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise DataError(f"merge: {len(missing)} of {totals[0]} shards missing: {shards}{why}; run them with shard=")


def _check_same(runs: list[ShardRun], train_folder: Path) -> None:
    """One train run, one config, the same images: what the unsharded run would have had."""
    first = runs[0]
    config = configs.read(first.folder / "config.yaml")
    for run in runs:
        if not _explains(run, train_folder):
            raise DataError(f"merge: {run.folder} does not explain {train_folder}; name shards of one train run")
        key = configs.first_difference(config, configs.read(run.folder / "config.yaml"), ignore=MAY_DIFFER)
        if key is not None:
            raise DataError(f"merge: {first.folder} and {run.folder} differ in {key}; run one of them again")
        for key, what in (("num_images_of_all", "number of images"), ("images_digest", "images"),
                          ("weights_digest", "trained weights")):
            if run.shard[key] != first.shard[key]:
                values = f" ({first.shard[key]} and {run.shard[key]})" if key == "num_images_of_all" else ""
                raise DataError(f"merge: {first.folder} and {run.folder} differ in their {what}{values}; "
                                "run the older shards again")
    ends = [(run.shard["first_image"], run.shard["first_image"] + run.shard["num_images"]) for run in runs]
    total = first.shard["num_images_of_all"]
    if [0, *(end for _, end in ends)] != [*(start for start, _ in ends), total]:
        raise DataError(f"merge: the shards do not cover the {total} images once each; run them again")
