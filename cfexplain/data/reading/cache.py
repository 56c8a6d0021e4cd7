"""Rendered and unpacked images on disk: written whole or not at all, made again where they are damaged.

Of two jobs that want the same, one makes it while the other waits.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cfexplain.data.reading.arrays import read_arrays
from cfexplain.errors import DataError
from cfexplain.files import open_locked, replacing

NOT_YOURS = "no permission to read {}, which another user wrote. Let them share it, or set cache_dir elsewhere."

log = logging.getLogger(__name__)


def cached_images(
    folder: Path, name: str, key: object, shape: tuple[int, ...], make: Callable[[], np.ndarray]
) -> np.ndarray:
    """The uint8 array of that shape kept as folder/name-<hash of key>.npz; `make` fills it where it is not there.

    A zip member carries a checksum, so a file that was cut or altered is noticed.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    path = folder / f"{name}-{digest}.npz"
    images = None
    if path.exists():
        try:
            images = read_arrays(path, ("images",), shape)["images"]
        except PermissionError as error:
            raise DataError(NOT_YOURS.format(path)) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s); making it again", path, error)
    if images is None or images.shape != shape or images.dtype != np.uint8:
        images = make()
        assert images.shape == shape and images.dtype == np.uint8, (images.shape, images.dtype, shape)
        write_atomically(path, lambda file: np.savez(file, images=images))
    return images


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`write` gets a binary file beside `path`, which then takes its place; a reader sees the old file or the new."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            write(file)
    except OSError as error:
        reason = f"cannot write {path} ({error.strerror})"
        raise DataError(f"{reason}. Make room or set cache_dir to a writable folder.") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, made where it is not there; wait for whoever holds it. It stays, empty."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path, wait=True)
    except OSError as error:
        reason = f"cannot lock {path} ({error.strerror})"
        raise DataError(f"{reason}. Set cache_dir to a writable folder on a local disk.") from error
    with file:
        yield
