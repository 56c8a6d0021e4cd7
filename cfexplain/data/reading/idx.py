"""idx files (the format of MNIST and its kin), gzipped or not, alone or as the sets that torchvision fetches."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.errors import DataError, reason_of
from cfexplain.lazy import torchvision

_UBYTE = 8
_SIDE = 28


@dataclass(frozen=True)
class IdxSet:
    """What torchvision calls it, and its files of the train and of the test part, as unpacked: images, then labels."""

    class_name: str
    arguments: dict[str, str]
    train: tuple[str, ...]
    test: tuple[str, ...]
    num_classes: int
    download_size: str
    needs_both_parts: bool = False
    advice: tuple[str, ...] = ()  # what else may be done where files are missing

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test

    def needed(self, is_train: bool) -> tuple[str, ...]:
        return self.files if self.needs_both_parts else self.train if is_train else self.test


def _pair(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


MNIST = IdxSet("MNIST", {}, _pair("train"), _pair("t10k"), 10, "12 MB", needs_both_parts=True)
EMNIST_LETTERS = IdxSet(
    "EMNIST", {"split": "letters"}, _pair("emnist-letters-train"), _pair("emnist-letters-test"), 27, "560 MB"
)
FASHION_IMAGES = IdxSet(
    "FashionMNIST", {}, _pair("train")[:1], (), 10, "31 MB",
    advice=("read another idx file with exposure=idx exposure.images=<file>",),
)


def idx_files(idx_set: IdxSet, root: str, download: bool, is_train: bool, group: str = "dataset") -> list[Path]:
    """The files of one part below root, packed or not; torchvision fetches what is missing where it may.

    group: config group that holds root and download, for messages.
    """
    top = Path(root).expanduser()
    folder, files = top / idx_set.class_name / "raw", idx_set.needed(is_train)
    if not all(_found(folder, file) for file in files):
        if not download:
            raise DataError(_missing(idx_set, folder, files, group))
        try:
            getattr(torchvision.datasets, idx_set.class_name)(str(top), **idx_set.arguments, download=True)
        except (OSError, RuntimeError) as error:
            missing = _missing(idx_set, folder, files, group)
            raise DataError(f"download failed ({reason_of(error)}). {missing}") from error
    found = [_found(folder, file) for file in (idx_set.train if is_train else idx_set.test)]
    if not all(found):
        raise DataError(_missing(idx_set, folder, files, group))
    return [path for path in found if path]


def read_idx_set(
    idx_set: IdxSet, root: str, download: bool, is_train: bool, group: str = "dataset"
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and their (N,) int64 classes, in the files' order; see idx_files."""
    images_path, labels_path = idx_files(idx_set, root, download, is_train, group)
    images, classes = read_idx_images(images_path), read_idx_labels(labels_path)
    labels_path = labels_path.with_suffix("")
    if len(images) != len(classes):
        raise DataError(f"{labels_path} has {len(classes)} labels for {len(images)} images. Fetch the files again.")
    if classes.max() >= idx_set.num_classes:
        raise DataError(f"{labels_path} holds a class {classes.max()}, which does not exist. Fetch it again.")
    return images, classes


def read_idx_images(path: Path) -> np.ndarray:
    """(N, 28, 28) uint8."""
    content = _read_bytes(path)
    shape = _checked_shape(content, path, 3)
    if shape[1:] != (_SIDE, _SIDE) or not shape[0]:
        count, height, width = shape
        raise DataError(f"{path} holds {count} images of {height}x{width} pixels; {_SIDE}x{_SIDE} are needed.")
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(shape)


def read_idx_labels(path: Path) -> np.ndarray:
    """(N,) int64."""
    content = _read_bytes(path)
    _checked_shape(content, path, 1)
    return np.frombuffer(content, dtype=np.uint8, offset=8).astype(np.int64)


def _read_bytes(path: Path) -> bytes:
    """The file's content, unpacked where it ends in .gz. DataError where it is missing, cut short or not gzip."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}). Check the path and its permissions.") from error


def _checked_shape(content: bytes, path: Path, num_dimensions: int) -> tuple[int, ...]:
    """The shape its header gives. DataError, naming the file, unless unsigned bytes of just that shape follow."""
    end = 4 * (num_dimensions + 1)
    if len(content) < end or content[:4] != bytes([0, 0, _UBYTE, num_dimensions]):
        kind = {1: "idx1 labels", 3: "idx3 images"}[num_dimensions]
        raise DataError(f"{path} is no {kind} file (wrong header). Fetch it again or name another file.")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, end, 4))
    if len(content) - end != math.prod(shape):
        sizes = f"{len(content) - end} bytes of data, {math.prod(shape)} by its header"
        raise DataError(f"{path} is damaged ({sizes}). Fetch it again.")
    return shape


def _found(folder: Path, file: str) -> Path | None:
    paths = (folder / file, folder / f"{file}.gz")
    return next((path for path in paths if path.is_file()), None)


def _missing(idx_set: IdxSet, folder: Path, files: tuple[str, ...], group: str) -> str:
    missing = [f"{file}.gz" for file in files if not _found(folder, file)]
    ways = [
        f"Put {'them' if len(files) > 1 else 'it'} there",
        f"set {group}.root to the folder that holds {idx_set.class_name}/raw",
        f"set {group}.download=true ({idx_set.download_size})",
        *idx_set.advice,
    ]
    return f"Missing in {folder}: {', '.join(missing)}. {', '.join(ways[:-1])}, or {ways[-1]}."
