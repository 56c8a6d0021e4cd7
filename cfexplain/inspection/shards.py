"""shard=i/n: the i-th of n parts of the images, so that n jobs can explain a set together.

A part is a run of whole batches, the same that an unsharded run would make: numbers depend, in their last bits, on the
batch they were computed in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfexplain.data.own_images import ExplainedImages
from cfexplain.errors import ConfigError


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
