"""German traffic signs (Stallkamp et al., 2012), 32x32 RGB, one sign or a group of signs normal."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.data.datasets.base import AugmentedDataset
from cfexplain.data.datasets.class_dataset import ClassDataset
from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.image_cache import all_images
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import DataError, reason_of
from cfexplain.lazy import torchvision

SIDE = 32
PACK = "gtsrb-32.zip"

CLASS_NAMES = (
    "20 km/h", "30 km/h", "50 km/h", "60 km/h", "70 km/h", "80 km/h", "end of 80 km/h", "100 km/h", "120 km/h",
    "no overtaking", "no overtaking by trucks", "priority at next crossing", "priority road", "give way", "stop",
    "no vehicles", "no trucks", "no entry", "general caution", "bend to left", "bend to right", "double bend",
    "uneven road", "slippery road", "road narrows", "road work", "traffic lights", "pedestrians", "children",
    "bicycles", "snow or ice", "wild animals", "end of all limits", "turn right", "turn left", "straight ahead",
    "straight or right", "straight or left", "keep right", "keep left", "roundabout", "end of no overtaking",
    "end of no overtaking by trucks",
)  # fmt: skip
NAMED_SETS = {
    "speed_limits": (0, 1, 2, 3, 4, 5, 7, 8),
    "prohibitory": (9, 10, 15, 16),
    "danger": (11, *range(18, 32)),
    "mandatory": tuple(range(33, 41)),
    "unique": (12, 13, 14, 17),
    "ends": (6, 32, 41, 42),
}


@dataclass(frozen=True, kw_only=True)
class Gtsrb(AugmentedDataset, ClassDataset):
    class_names = CLASS_NAMES
    named_sets = NAMED_SETS
    image_size = SIDE

    root: str
    download: bool

    def read(self, is_train: bool) -> RawImages:
        """Training pictures are grouped by track: about thirty shots of one sign that a car drove past."""
        given = Path(self.root).expanduser()
        root = given / PACK if not (given / "gtsrb").is_dir() and (given / PACK).is_file() else given
        root = unpacked(root, self.cache_dir) if root.suffix == ".zip" else root
        samples = _samples(root, self.download and root == given, is_train)
        paths = [path for path, _ in samples]
        part = "train" if is_train else "test"
        images = all_images(paths, (3, SIDE, SIDE), self.cache_dir)
        classes = np.array([label for _, label in samples], dtype=np.int64)
        inside = [f"{path.parent.name}/{path.stem}" if is_train else path.stem for path in paths]
        return RawImages(images, classes, [f"{part}/{name}" for name in inside], _tracks(paths) if is_train else None)


_ADVICE = (
    f"Set dataset.root to the folder that holds gtsrb/GTSRB, to a .zip of it such as {PACK}, "
    "or set dataset.download=true (280 MB)."
)


def _samples(root: Path, download: bool, is_train: bool) -> list[tuple[Path, int]]:
    """Path and class of each image of the part, in torchvision's order."""
    base = root / "gtsrb"
    images = base / ("GTSRB/Training" if is_train else "GTSRB/Final_Test/Images")
    table = base / "GT-final_test.csv"
    missing = [str(path.relative_to(root)) for path in ([images] if is_train else [images, table]) if not path.exists()]
    if missing and not download:
        raise DataError(f"Missing in {root}: {', '.join(missing)}. {_ADVICE}")
    part = "train" if is_train else "test"
    try:
        if missing:
            torchvision.datasets.GTSRB(str(root), part, download=True)
        if is_train:
            _check_class_folders(images)
        found = torchvision.datasets.GTSRB(str(root), part)._samples
    except KeyError as error:
        raise DataError(f"{table} has no column {error.args[0]}. Fetch it again.") from error
    except (TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{table} is damaged ({reason_of(error)}). Fetch it again.") from error
    except (OSError, RuntimeError) as error:
        step = "download" if missing else f"reading {images}"
        raise DataError(f"{step} failed ({reason_of(error)}). {_ADVICE}") from error
    samples = [(Path(path), label) for path, label in found]
    _check_samples(samples, images if is_train else table)
    return samples


def _check_class_folders(training: Path) -> None:
    """torchvision numbers classes by the order of their folders: one that lacks, or is too many, shifts the rest."""
    wanted = {f"{index:05d}" for index in range(len(CLASS_NAMES))}
    there = {path.name for path in training.iterdir() if path.is_dir()}
    for words, names in (("lacks", wanted - there), ("must not hold", there - wanted)):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (" ..." if len(names) > 5 else "")
            raise DataError(f"{training} {words} class folders {shown}; 00000 to 00042 are needed. Unpack it again.")


def _check_samples(samples: list[tuple[Path, int]], source: Path) -> None:
    if not samples:
        raise DataError(f"{source} names no images. Fetch it again.")
    for path, label in samples:
        if not 0 <= label < len(CLASS_NAMES):
            last = len(CLASS_NAMES) - 1
            raise DataError(f"{source} gives {path.name} the class {label}; classes are 0 to {last}. Fetch it again.")
        if not path.is_file():
            raise DataError(f"{source} names {path.name}, which is not in {path.parent}. Unpack it again.")
    if len({path for path, _ in samples}) < len(samples):
        raise DataError(f"{source} names an image twice. Fetch it again.")


def _tracks(paths: list[Path]) -> np.ndarray:
    """(N,) int64, one number per class folder and track; the files are named <track>_<shot>.ppm."""
    names = []
    for path in paths:
        if not re.fullmatch(r"\d+_\d+", path.stem):
            raise DataError(f"{path} is not named <track>_<shot>.ppm, as the official files are. Unpack them again.")
        names.append(f"{path.parent.name}/{path.stem.split('_')[0]}")
    _, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64)
