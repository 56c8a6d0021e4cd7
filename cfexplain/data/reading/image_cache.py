"""Image files decoded once into a file of bytes that is mapped, so that a set may be larger than memory.

The file lies under the hash of the images' content: a folder that moves finds it, a folder that changes does not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cfexplain.data.reading.cache import locked, NOT_YOURS, write_atomically
from cfexplain.data.reading.image_files import MAX_PIXELS, read_image
from cfexplain.errors import DataError
from cfexplain.files import regular, remove_leftovers
from cfexplain.types import ImageShape

log = logging.getLogger(__name__)

VERSION = 3  # of how images are decoded: a change makes every cache anew
CHUNK = 64  # files at a time: as much is in memory while building


@dataclass(frozen=True)
class CachedImages:
    """images: (N, C, H, W) uint8, of those files that could be read; indices: (N,) int, which of the files."""

    images: np.ndarray
    is_mapped: bool
    indices: np.ndarray


def check_source(root: str, max_unreadable_fraction: float) -> None:
    """ValueError for values of a spec that reads the images of a folder."""
    if not root.strip():
        raise ValueError("root is empty: name a folder of images or a .zip of one")
    if not 0 <= max_unreadable_fraction < 1:
        raise ValueError(f"max_unreadable_fraction must be at least 0 and below 1, got {max_unreadable_fraction}")


def mapped_images(
    files: Sequence[Path],
    image_shape: ImageShape,
    cache_dir: str,
    memory_limit_mb: int,
    max_unreadable_fraction: float | None,
    digests: Sequence[bytes] | None = None,
    bits: int | None = None,
) -> CachedImages:
    """The images in their files' order; in memory where they take at most `memory_limit_mb`, else mapped.

    Up to `max_unreadable_fraction` of the files may be unreadable: they are left out, counted and named in the log.
    None allows none at all. digests: of the files, where they are known already. bits: as read_image has it.
    Of two jobs at once one decodes and the other waits.
    """
    assert files, "no image files"
    key = content_key(image_shape, file_digests(files) if digests is None else digests, bits)
    path = Path(cache_dir).expanduser() / "images" / f"{key}.u8"
    unreadable = _unreadable_of_sound(path)
    if unreadable is None:
        with locked(path.with_suffix(".lock")):
            unreadable = _unreadable_of_sound(path)
            if unreadable is None:
                if path.exists():
                    log.warning("%s is damaged; making it again", path)
                unreadable = _build(path, files, image_shape, bits)
    _check_unreadable(files, unreadable, max_unreadable_fraction, bits)
    indices = np.setdiff1d(np.arange(len(files)), unreadable)
    shape = (len(indices), *image_shape)
    is_mapped = prod(shape) > memory_limit_mb * 2**20
    # Copy on write: torch wants memory that may be written, and the file must not change.
    images = np.memmap(path, np.uint8, "c", shape=shape) if is_mapped else np.fromfile(path, np.uint8).reshape(shape)
    return CachedImages(images, is_mapped, indices)


def all_images(files: Sequence[Path], image_shape: ImageShape, cache_dir: str) -> np.ndarray:
    """(N, C, H, W) uint8 in memory, by way of the same cache. DataError names the first file that is damaged."""
    return mapped_images(files, image_shape, cache_dir, sys.maxsize, max_unreadable_fraction=None).images


def content_key(image_shape: ImageShape, digests: Sequence[bytes], bits: int | None = None) -> str:
    key = hashlib.sha256(repr((VERSION, MAX_PIXELS, image_shape, bits, len(digests))).encode())
    for digest in digests:
        key.update(digest)
    return key.hexdigest()[:32]


def file_digests(files: Sequence[Path]) -> list[bytes]:
    """SHA-256 of each file's content; zeros where it cannot be read."""
    return list(_in_threads(_digest, files))


def _digest(file: Path) -> bytes:
    try:
        with regular(file).open("rb") as content:
            return hashlib.file_digest(content, "sha256").digest()
    except OSError:
        return bytes(32)  # unreadable, which `_build` will say


def _unreadable_of_sound(path: Path) -> list[int] | None:
    """Which files the cached images lack; None where there is no cache, or one cut short or altered."""
    try:
        notes: Any = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with path.open("rb") as file:
            is_sound = hashlib.file_digest(file, "sha256").hexdigest() == notes["sha256"]
        return notes["unreadable"] if is_sound else None
    except PermissionError as error:
        raise DataError(NOT_YOURS.format(path)) from error
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(path: Path, files: Sequence[Path], image_shape: ImageShape, bits: int | None) -> list[int]:
    log.info("decoding %d images into %s", len(files), path)
    remove_leftovers(path.parent, f"{path.stem}.*")  # of a job that was killed: whoever holds the lock is alone
    unreadable: list[int] = []
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        for index, image in enumerate(_in_threads(lambda name: _image_or_none(name, image_shape, bits), files)):
            if image is None:
                unreadable.append(index)
            else:
                digest.update(image)
                file.write(image)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged headers; what cannot be read is counted
        write_atomically(path, write)
    notes = {"shape": image_shape, "sha256": digest.hexdigest(), "unreadable": unreadable}
    write_atomically(path.with_suffix(".json"), lambda file: file.write(json.dumps(notes).encode()))
    return unreadable


def _image_or_none(file: Path, image_shape: ImageShape, bits: int | None) -> np.ndarray | None:
    try:
        return read_image(file, image_shape, bits)
    except DataError as error:
        log.info("left out: %s", error)
        return None


def _check_unreadable(
    files: Sequence[Path], unreadable: list[int], max_fraction: float | None, bits: int | None
) -> None:
    if not unreadable:
        return
    if max_fraction is None or len(unreadable) > max_fraction * len(files):
        reason = f"{files[unreadable[0]]}."
        try:
            read_image(files[unreadable[0]], (1, 8, 8), bits)
        except DataError as error:
            reason = str(error)
        if max_fraction is None:
            raise DataError(f"{reason} Fetch it again.")
        raise DataError(
            f"{len(unreadable)} of {len(files)} images cannot be used, first: {reason} "
            f"Mend or remove them, or allow more with max_unreadable_fraction (now {max_fraction:g})."
        )
    log.warning("left out %d of %d images that cannot be read", len(unreadable), len(files))
    for index in unreadable:
        log.info("cannot be read: %s", files[index])


def _in_threads(work: Callable[[Path], Any], files: Sequence[Path]) -> Iterator[Any]:
    """Results in order, a chunk at a time. Pillow and hashlib let go of the interpreter while they work."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), CHUNK):
            yield from pool.map(work, files[start : start + CHUNK])
