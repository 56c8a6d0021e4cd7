"""MNIST and EMNIST letters through torchvision's own classes, from files that may be packed and in a read-only folder.

torchvision reads unpacked files only and unpacks beside the packed ones. Here they are checked first, and where some
are packed, unpacked copies in the cache are what torchvision reads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.data.reading.cache import write_atomically
from cfexplain.data.reading.idx import idx_shape, read_bytes
from cfexplain.errors import DataError
from cfexplain.lazy import torchvision


@dataclass(frozen=True)
class Collection:
    """What torchvision calls it, and its (images, labels) files of the train and of the test part, as unpacked."""

    class_name: str
    arguments: dict[str, str]
    train: tuple[str, str]
    test: tuple[str, str]
    num_classes: int
    download_size: str

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test

    def folder(self, root: Path) -> Path:
        return root / self.class_name / "raw"


def _pair(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


MNIST = Collection("MNIST", {}, _pair("train"), _pair("t10k"), 10, "12 MB")
EMNIST_LETTERS = Collection(
    "EMNIST", {"split": "letters"}, _pair("emnist-letters-train"), _pair("emnist-letters-test"), 27, "560 MB"
)


def read_files(
    collection: Collection, root: str, download: bool, cache_dir: str, is_train: bool, group: str = "dataset"
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and their (N,) int64 classes, in the files' order.

    group: config group that holds root and download, for messages.
    """
    read: Any = getattr(torchvision.datasets, collection.class_name)
    folder = Path(root).expanduser()
    # torchvision's MNIST wants all four files, whichever part is read; its EMNIST only those it reads.
    files = collection.files if collection is MNIST else collection.train if is_train else collection.test
    if not all(_found(collection.folder(folder), file) for file in files):
        if not download:
            raise DataError(_missing(collection, folder, files, group))
        try:
            read(str(folder), **collection.arguments, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"download failed ({reason}). {_missing(collection, folder, files, group)}") from error
    checked = _checked_root(collection, folder, files, Path(cache_dir).expanduser())
    dataset = read(str(checked), **collection.arguments, train=is_train, download=False)
    images, classes = dataset.data.numpy(), dataset.targets.numpy()
    labels_path = collection.folder(folder) / (collection.train if is_train else collection.test)[1]
    if len(images) != len(classes):
        raise DataError(f"{labels_path} has {len(classes)} labels for {len(images)} images. Fetch the files again.")
    if classes.max() >= collection.num_classes:
        raise DataError(f"{labels_path} holds a class {classes.max()}, which does not exist. Fetch it again.")
    return images, classes


def _found(folder: Path, file: str) -> Path | None:
    paths = (folder / file, folder / f"{file}.gz")
    return next((path for path in paths if path.is_file()), None)


def _missing(collection: Collection, root: Path, files: tuple[str, ...], group: str) -> str:
    folder = collection.folder(root)
    missing = [f"{file}.gz" for file in files if not _found(folder, file)]
    return (
        f"Missing in {folder}: {', '.join(missing)}. Put them there, set {group}.root to the folder that holds "
        f"{collection.class_name}/raw, or set {group}.download=true ({collection.download_size})."
    )


def _checked_root(collection: Collection, root: Path, files: tuple[str, ...], cache_dir: Path) -> Path:
    """A root whose files are whole and unpacked: `root` itself, or one in the cache. DataError for damaged files."""
    paths = {file: _found(collection.folder(root), file) for file in files}
    contents = {}
    for file, path in paths.items():
        assert path is not None, file
        contents[file] = read_bytes(path)
        idx_shape(contents[file], path, 3 if "idx3" in file else 1)
    if not any(path.suffix == ".gz" for path in paths.values() if path):
        return root
    digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents.values()))
    unpacked = cache_dir / "unpacked" / digest.hexdigest()[:16]
    for file, content in contents.items():
        copy = collection.folder(unpacked) / file
        if not copy.is_file() or copy.read_bytes() != content:
            write_atomically(copy, lambda out, content=content: out.write(content))
    return unpacked
