"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), 32x32 RGB, in any of three forms: torchvision's, arrays, image files."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.arrays import read_arrays
from cfexplain.data.reading.image_cache import all_images
from cfexplain.data.reading.image_files import find_folders, find_image_files
from cfexplain.data.reading.raw_images import numbered, RawImages
from cfexplain.errors import DataError, did_you_mean, reason_of
from cfexplain.lazy import torchvision

SIDE = 32


@dataclass(frozen=True)
class Cifar:
    """Name of torchvision's class, the folder it reads, the names of labels 0, 1, ..., and its config group."""

    class_name: str
    folder: str
    class_names: tuple[str, ...]
    group: str


CIFAR10 = Cifar(
    "CIFAR10",
    "cifar-10-batches-py",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "dataset",
)
CIFAR100 = Cifar(
    "CIFAR100",
    "cifar-100-python",
    tuple(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
    ),
    "exposure",
)


def read_cifar(cifar: Cifar, root: str, download: bool, cache_dir: str, is_train: bool) -> RawImages:
    """All of one part: (N, 3, 32, 32) uint8.

    root: a folder that holds torchvision's; an .npz of x_train, y_train, x_test, y_test; or a folder or zip that
          holds train/<class>/* and test/<class>/*.
    """
    path = Path(root).expanduser()
    if path.suffix == ".npz":
        return _from_arrays(cifar, path, is_train)
    is_official = (path / cifar.folder).is_dir()
    top = None if is_official or not path.exists() else _top(cifar, unpacked(path, cache_dir))
    if top is not None:
        return _from_image_files(cifar, top, cache_dir, is_train)
    if is_official or (download and not path.is_file()):
        return _from_torchvision(cifar, path, download, is_train)
    raise DataError(f"no {cifar.class_name} at {path}. {_advice(cifar)}")


def _from_arrays(cifar: Cifar, path: Path, is_train: bool) -> RawImages:
    part = "train" if is_train else "test"
    try:
        arrays = read_arrays(path, (f"x_{part}", f"y_{part}", "class_names"))
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        names = arrays.get("class_names", np.array(cifar.class_names))
    except KeyError as error:
        raise DataError(f"{path} lacks an array: {error.args[0]}. It must hold x_{part} and y_{part}.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise DataError(f"cannot read {path} ({reason}). Fetch it again or check {cifar.group}.root.") from error
    wanted = f"(N, {SIDE}, {SIDE}, 3) uint8"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3) or not len(images):
        raise DataError(f"{path}: x_{part} must be {wanted} with N > 0, it is {images.shape} {images.dtype}.")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        found = f"{labels.shape} {labels.dtype}"
        raise DataError(f"{path}: y_{part} must hold {len(images)} whole numbers, one an image, it is {found}.")
    if labels.min() < 0 or labels.max() >= len(cifar.class_names):
        found = f"{labels.min()} to {labels.max()}"
        raise DataError(f"{path}: y_{part} must lie in 0 to {len(cifar.class_names) - 1}, it holds {found}.")
    if tuple(names.tolist()) != cifar.class_names:
        raise DataError(f"{path}: its class_names are not those of {cifar.class_name} in torchvision's order.")
    return _channels_first(images, labels, part)


def _from_torchvision(cifar: Cifar, root: Path, download: bool, is_train: bool) -> RawImages:
    read: Any = getattr(torchvision.datasets, cifar.class_name)
    folder = root / cifar.folder
    try:
        found = read(str(root), train=is_train, download=download)
    except (OSError, RuntimeError, EOFError, zlib.error) as error:
        if download:
            raise DataError(f"download failed ({reason_of(error)}). {_advice(cifar)}") from error
        sums = dict([*read.train_list, *read.test_list, [read.meta["filename"], read.meta["md5"]]])
        there = [name for name in sums if (folder / name).is_file()]
        is_whole = torchvision.datasets.utils.check_integrity
        if damaged := [name for name in there if not is_whole(str(folder / name), sums[name])]:
            names = ", ".join(damaged)
            raise DataError(f"damaged in {folder} (md5 differs): {names}. Fetch them again.") from error
        missing = ", ".join(name for name in sums if name not in there)
        raise DataError(f"Missing in {folder}: {missing}. {_advice(cifar)}") from error
    part = "train" if is_train else "test"
    return _channels_first(found.data, np.array(found.targets), part)


def _from_image_files(cifar: Cifar, top: Path, cache_dir: str, is_train: bool) -> RawImages:
    part = "train" if is_train else "test"
    if not (top / part).is_dir():
        raise DataError(f"{top} has no folder {part}. It must hold train/<class>/* and test/<class>/*.")
    paths, labels = [], []
    for folder in find_folders(top / part):
        if folder.name not in cifar.class_names:
            hint = did_you_mean(folder.name, cifar.class_names)
            raise DataError(f"{folder} is none of {cifar.class_name}'s classes.{hint} Rename or remove it.")
        files = find_image_files(folder)
        paths += files
        labels += [cifar.class_names.index(folder.name)] * len(files)
    if not paths:
        raise DataError(f"no images in {top / part}. It must hold <class>/*, such as {cifar.class_names[0]}/*.png.")
    images = all_images(paths, (3, SIDE, SIDE), cache_dir)
    ids = [path.relative_to(top).as_posix() for path in paths]
    return RawImages(images, np.array(labels), ids)


def _top(cifar: Cifar, folder: Path) -> Path | None:
    """The folder whose train or test holds some class: this one, or the only one directly in it that does."""

    def holds_a_class(top: Path) -> bool:
        return any((top / part / name).is_dir() for part in ("train", "test") for name in cifar.class_names)

    holders = [path for path in find_folders(folder) if holds_a_class(path)]
    return folder if holds_a_class(folder) else holders[0] if len(holders) == 1 else None


def _channels_first(images: np.ndarray, labels: np.ndarray, part: str) -> RawImages:
    """Of (N, 32, 32, 3), and laid out so."""
    return numbered(part, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64))


def _advice(cifar: Cifar) -> str:
    archive, group = cifar.folder.replace("-batches-py", "-python"), cifar.group
    return (
        f"Unpack {archive}.tar.gz into {group}.root, set {group}.root to an .npz or to a folder or .zip of "
        f"train/<class>/*, or set {group}.download=true (170 MB)."
    )
