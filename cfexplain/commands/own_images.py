"""A user's own pictures: found by name at once, read batch by batch in the size and channels that a model knows."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cfexplain.data.image_files import find_image_files, read_image
from cfexplain.errors import ConfigError, DataError
from cfexplain.types import ANOMALOUS, ImageSet, ImageShape

LIST_EXTENSIONS = (".txt", ".lst")

log = logging.getLogger("cfexplain")


def find_images(patterns: Sequence[str]) -> list[str]:
    """Files of all patterns, each once, sorted. DataError for a pattern without a match.

    A pattern is a file, a glob, a folder (images anywhere below), or a .txt file with one path a line.
    """
    files: set[str] = set()
    for pattern in patterns:
        names = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)
        found = [file for name in names for file in _images_of(Path(name))]
        if not found:
            raise DataError(f"images: nothing matches {pattern}; name a file, a folder, a glob or a .txt list")
        files.update(os.path.normpath(file) for file in found)
    return sorted(files)


def _images_of(path: Path) -> list[Path]:
    if path.is_dir():
        return find_image_files(path)
    return _listed(path) if path.suffix.lower() in LIST_EXTENSIONS else [path]


def _listed(path: Path) -> list[Path]:
    """Paths of a list file, relative to it; empty lines and lines that begin with # are passed over."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"images: cannot read the list {path}: {error}") from error
    files = [path.parent / line for line in lines if line and not line.startswith("#")]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"images: {path} lists {len(missing)} files that are not there, first {missing[0]}")
    return files


def load_images(files: Sequence[str], image_shape: ImageShape, is_strict: bool = True) -> ImageSet:
    """What can be read of them, as anomalous images of no known class; the rest is named in the log.

    is_strict: a file that cannot be read is a DataError.
    """
    import numpy as np
    import torch

    if image_shape[0] not in (1, 3):
        raise ConfigError(f"images: the model takes {image_shape[0]} channels, a picture gives 1 or 3")
    arrays, names = [], []
    for file in files:
        try:
            arrays.append(read_image(Path(file), image_shape))
        except DataError as error:
            if is_strict:
                raise DataError(f"images: {error}") from error
            log.warning("left out: %s", error)
        else:
            names.append(file)
    images = np.stack(arrays) if arrays else np.empty((0, *image_shape), dtype=np.uint8)
    return ImageSet(
        images=torch.from_numpy(images),
        labels=torch.full((len(names),), ANOMALOUS),
        classes=torch.full((len(names),), -1),
        ids=tuple(names),
    )
