"""idx files (the format of MNIST and its kin), gzipped or not, alone or as the sets that torchvision fetches."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cfexplain.data.reading.raw_images import numbered, RawImages
from cfexplain.errors import DataError, reason_of
from cfexplain.files import regular
from cfexplain.lazy import torchvision

_SIDE = 28
MAX_BYTES = 700 * 2**20  # of a file as unpacked; the largest of EMNIST has 522 MB


@dataclass(frozen=True)
class IdxSet:
    """What torchvision calls it, and the files that are needed of it, as unpacked.

    group: config group that holds root and download, for messages.
    """

    class_name: str
    files: tuple[str, ...]
    num_classes: int
    download_size: str
    group: str
    arguments: Mapping[str, str] = field(default_factory=dict)


def _pair(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


MNIST = IdxSet("MNIST", _pair("train") + _pair("t10k"), 10, "12 MB", "dataset")
EMNIST_LETTERS = IdxSet("EMNIST", _pair("emnist-letters-train"), 27, "560 MB", "exposure", {"split": "letters"})
FASHION_IMAGES = IdxSet("FashionMNIST", _pair("train")[:1], 10, "31 MB", "exposure")


def idx_files(idx_set: IdxSet, root: str, download: bool) -> list[Path]:
    """The files below root, packed or not; torchvision fetches what is missing where it may."""
    top = Path(root).expanduser()
    folder = top / idx_set.class_name / "raw"
    if download and None in _found(folder, idx_set):
        try:
            getattr(torchvision.datasets, idx_set.class_name)(str(top), **idx_set.arguments, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"download failed ({reason_of(error)}). {_missing(idx_set, folder)}") from error
    paths = [path for path in _found(folder, idx_set) if path]
    if len(paths) < len(idx_set.files):
        raise DataError(_missing(idx_set, folder))
    return paths


def read_idx_set(idx_set: IdxSet, root: str, download: bool, is_train: bool) -> RawImages:
    """Grey 28x28 images of one part with their classes, in the files' order."""
    paths = idx_files(idx_set, root, download)
    images_path, labels_path = paths[:2] if is_train else paths[2:]
    images, classes = read_idx_images(images_path), _read_idx(labels_path, "idx1 labels").astype(np.int64)
    labels_path = labels_path.with_suffix("")
    if len(images) != len(classes):
        raise DataError(f"{labels_path} has {len(classes)} labels for {len(images)} images. Fetch the files again.")
    if classes.max() >= idx_set.num_classes:
        raise DataError(f"{labels_path} holds a class {classes.max()}, which does not exist. Fetch it again.")
    return numbered("train" if is_train else "test", images, classes)


def read_idx_images(path: Path) -> np.ndarray:
    """(N, 28, 28) uint8."""
    images = _read_idx(path, "idx3 images")
    count, height, width = images.shape
    if (height, width) != (_SIDE, _SIDE) or not count:
        raise DataError(f"{path} holds {count} images of {height}x{width} pixels; {_SIDE}x{_SIDE} are needed.")
    return images


def _read_idx(path: Path, kind: str) -> np.ndarray:
    """The unsigned bytes in their shape. DataError, naming the file, where it is missing, damaged or not of the kind.

    kind: begins with idx and the number of dimensions. The file is unpacked where it ends in .gz.
    """
    num_dimensions = int(kind[3])
    end = 4 * (num_dimensions + 1)
    try:
        with gzip.open(regular(path)) if path.suffix == ".gz" else regular(path).open("rb") as file:
            header = file.read(end)
            if len(header) < end or header[:4] != bytes([0, 0, 8, num_dimensions]):  # 8: unsigned bytes
                raise DataError(f"{path} is no {kind} file (wrong header). Fetch it again or name another file.")
            shape = np.frombuffer(header[4:], ">u4").tolist()
            if math.prod(shape) > MAX_BYTES:
                claimed = f"its header claims {math.prod(shape) >> 20} MB, {MAX_BYTES >> 20} are read"
                raise DataError(f"{path} is damaged or too large ({claimed}). Name another file.")
            content = file.read(math.prod(shape) + 1)  # a little too much is noticed, and no more of it unpacked
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}). Check the path and its permissions.") from error
    if len(content) != math.prod(shape):
        found = f"{len(content)} bytes" if len(content) < math.prod(shape) else "more"
        raise DataError(f"{path} is damaged ({found} of data, {math.prod(shape)} by its header). Fetch it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _found(folder: Path, idx_set: IdxSet) -> list[Path | None]:
    choices = ((folder / file, folder / f"{file}.gz") for file in idx_set.files)
    return [next((path for path in paths if path.is_file()), None) for paths in choices]


def _missing(idx_set: IdxSet, folder: Path) -> str:
    found, group = _found(folder, idx_set), idx_set.group
    missing = [f"{file}.gz" for file, path in zip(idx_set.files, found, strict=True) if path is None]
    other = ", read another idx file with exposure=idx exposure.images=<file>" if group == "exposure" else ""
    return (
        f"Missing in {folder}: {', '.join(missing)}. Put them there, set {group}.root to the folder that holds "
        f"{idx_set.class_name}/raw{other}, or set {group}.download=true ({idx_set.download_size})."
    )
