"""Many image files as one array, decoded once and then read from the cache, as long as their bytes stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from cfexplain.data.cache import cached_images
from cfexplain.data.image_files import read_image
from cfexplain.errors import DataError
from cfexplain.types import ImageShape

_VERSION = 1  # raise it when `read_image` turns the same file into other pixels


def decoded_images(paths: Sequence[Path], image_shape: ImageShape, cache_dir: str, name: str) -> np.ndarray:
    """(N, C, H, W) uint8 in the order of the paths, resized where need be. DataError names a file that is damaged.

    name: of the file in the cache.
    """
    key = (_VERSION, PIL.__version__, image_shape, content_digest(paths))
    folder = Path(cache_dir).expanduser() / "decoded"
    shape = (len(paths), *image_shape)
    return cached_images(folder, name, key, shape, lambda: _decoded(paths, image_shape))


def content_digest(paths: Sequence[Path]) -> str:
    """One hash of the files' bytes in that order. DataError names a file that cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(_content(path)).digest())
    return digest.hexdigest()


def _decoded(paths: Sequence[Path], image_shape: ImageShape) -> np.ndarray:
    images = np.empty((len(paths), *image_shape), dtype=np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = read_image(path, image_shape)
    return images


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}). Fetch it again or check its permissions.") from error
