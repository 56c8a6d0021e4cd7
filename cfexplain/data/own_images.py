"""The images that a run explains, batch by batch: test anomalies, or a user's own."""

from __future__ import annotations

import codecs
import glob
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.data.reading.image_cache import file_digests
from cfexplain.data.reading.image_files import EXTENSIONS, find_image_files, read_image
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.data.recorded_split import contents, digest_of
from cfexplain.data.splits import image_set
from cfexplain.errors import ConfigError, DataError
from cfexplain.files import printable, regular
from cfexplain.lazy import torch
from cfexplain.types import ANOMALOUS, ImageSet, ImageShape, Splits

LIST_EXTENSIONS = (".txt", ".lst")

log = logging.getLogger("cfexplain")


@dataclass(frozen=True, kw_only=True)
class ExplainedImages:
    """names: of all; load: the images of a part of them; own images that cannot be read are missing there.

    contents:    sha256 of each.
    class_names: of the dataset; empty for own images, which have no known class.
    """

    names: tuple[str, ...]
    load: Callable[[range], ImageSet]
    contents: Callable[[], Sequence[str]]
    class_names: tuple[str, ...]
    are_own: bool

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Another one when a picture is replaced under its name."""
        return digest_of(self.names, self.contents())


def own_images(files: list[str], image_shape: ImageShape, bits: int | None = None) -> ExplainedImages:
    """Anomalous images of no known class, read when they are asked for.

    One that cannot be read is left out and named in the log; of a single one it is a DataError. bits: see read_image.
    """
    if image_shape[0] not in (1, 3):
        raise ConfigError(f"images: the model takes {image_shape[0]} channels, a picture gives 1 or 3")

    def load(part: range) -> ImageSet:
        arrays, names = [], []
        for file in files[part.start : part.stop]:
            try:
                arrays.append(read_image(Path(file), image_shape, bits))
            except DataError as error:
                if len(files) == 1:
                    raise DataError(f"images: {error}") from error
                log.warning("left out: %s", error)
            else:
                names.append(printable(file))
        images = np.stack(arrays) if arrays else np.empty((0, *image_shape), dtype=np.uint8)
        return image_set(RawImages(images, np.full(len(names), -1), names), ANOMALOUS)

    if not any(len(load(range(index, index + 1))) for index in range(len(files))):  # before anything is trained
        raise DataError(f"images: none of the {len(files)} files can be read, first {printable(files[0])}; "
                        "name pictures")

    def contents() -> list[str]:
        return [digest.hex() for digest in file_digests([Path(file) for file in files])]

    names = tuple(map(printable, files))
    return ExplainedImages(names=names, load=load, contents=contents, class_names=(), are_own=True)


def test_anomalies(splits: Splits) -> ExplainedImages:
    """Of the dataset or, where it has none, exposure images."""
    explained = splits.explained

    def load(part: range) -> ImageSet:
        return explained.select(torch.arange(part.start, part.stop))

    return ExplainedImages(
        names=explained.ids, load=load, contents=lambda: contents(explained, splits), class_names=splits.class_names,
        are_own=False,
    )


def find_images(patterns: Sequence[str]) -> list[str]:
    """Files of all patterns, each once, sorted. DataError for a pattern without a match.

    A pattern is a file, a glob, a folder (images anywhere below), or a .txt file with one path a line.
    """
    files: set[str] = set()
    for pattern in map(os.path.expanduser, patterns):
        is_glob = not os.path.exists(pattern)
        found: list[Path] = []
        for path in _matches(pattern) if is_glob else [Path(pattern)]:
            if is_glob and path.is_file() and path.suffix.lower() not in EXTENSIONS:
                log.warning("left out: %s matches %s and has no ending of an image", path, pattern)
            elif path.is_dir():
                found += find_image_files(path)
            else:
                found += _listed(path) if path.suffix.lower() in LIST_EXTENSIONS else [path]
        if not found:
            raise DataError(f"images: nothing matches {pattern}; name a file, a folder, a glob or a .txt list")
        files.update(map(os.path.normpath, found))
    return sorted(files)


def _matches(pattern: str) -> list[Path]:
    """Of a glob; the folders it begins with are taken as they are named, brackets and all, where they are there."""
    folder, rest = Path(), Path(pattern).parts
    while len(rest) > 1 and (folder / rest[0]).is_dir():
        folder, rest = folder / rest[0], rest[1:]
    return [folder / name for name in glob.glob(str(Path(*rest)), root_dir=folder, recursive=True)]


def _listed(path: Path) -> list[Path]:
    """Paths of a list file, relative to it; empty lines and lines that begin with # are passed over."""
    try:
        content = regular(path).read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes
        lines = [line.strip() for line in content.decode("utf-16" if is_wide else "utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"images: cannot read the list {path}: {error}") from error
    files = [path.parent / line for line in lines if line and not line.startswith("#")]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DataError(f"images: {path} lists {len(missing)} files that are not there, first {missing[0]}")
    return files
