"""A folder of many classes, some of them normal and their neighbours, classes that look alike, anomalous.

Classes that are neither are never tested on, so their training images may be the exposure (exposure=supervised).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cfexplain.checks import check_at_least
from cfexplain.data.datasets.base import as_slug, AugmentedDataset
from cfexplain.data.datasets.class_dataset import ClassDataset
from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.folder_layout import unwrapped
from cfexplain.data.reading.image_cache import all_images, check_source
from cfexplain.data.reading.image_files import find_folders, find_image_files, MIN_SIDE
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import ConfigError, DataError, did_you_mean, reason_of
from cfexplain.files import printable, regular

TEST_FOLDERS = ("test", "val")  # the first that holds a class
TABLES = ("classes.txt", "words.txt")  # lines of a folder's name, a tab, and what else it is called
MAX_SLUG = 80
NUM_NAMES_SHOWN = 12
ADVICE = "Set dataset.root to a folder, or a .zip of one, that holds train/<class>/* and val/<class>/*."


@dataclass(frozen=True)
class ClassFolders:
    """names: of the classes, in the order of their folders; index_of: each of them by every word that means it."""

    base: Path
    test: Path
    folders: tuple[str, ...]
    names: tuple[str, ...]
    index_of: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Neighbours(AugmentedDataset, ClassDataset):
    """normal, anomalous: classes, by folder or by a name in classes.txt; null: all that are not normal.

    Unlike elsewhere `anomalous` stands beside `normal`: classes that neither names are not tested on.
    """

    anomalous_replaces_normal = False

    root: str
    image_size: int

    def __post_init__(self) -> None:
        check_at_least(self, image_size=MIN_SIDE)
        super().__post_init__()
        check_source(self.root, max_unreadable_fraction=0.0)

    def check_classes(self) -> None:
        """Which classes there are is not known before the folder is read."""
        for field, words in (("normal", self.normal), ("anomalous", self.anomalous)):
            if words == []:
                raise ValueError(f"{field} is empty: name at least one class")

    @property
    def slug(self) -> str:
        sets = [sorted(self.normal), *([] if self.anomalous is None else [sorted(self.anomalous)])]
        return as_slug("-".join(["neighbours", *map("_".join, sets)]))[:MAX_SLUG]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._found.names

    @property
    def normal_classes(self) -> tuple[int, ...]:
        return self._indices("normal", self.normal)

    @property
    def anomalous_classes(self) -> tuple[int, ...]:
        if self.anomalous is not None:
            return self._indices("anomalous", self.anomalous)
        return tuple(index for index in range(len(self.class_names)) if index not in self.normal_classes)

    def read(self, is_train: bool) -> RawImages:
        """Of the training part all classes, of the other one those that are tested."""
        found, normal, anomalous = self._found, self.normal_classes, self.anomalous_classes
        if both := set(normal) & set(anomalous):
            names = ", ".join(found.names[index] for index in sorted(both))
            raise ConfigError(f"dataset.anomalous: {names} is normal too. Take it out of one of the two lists.")
        if not anomalous:
            raise ConfigError(f"dataset.normal holds all {len(found.names)} classes: no anomaly is left.")
        part = found.base / "train" if is_train else found.test
        needed = normal if is_train else (*normal, *anomalous)
        paths, classes = [], []
        for index in range(len(found.names)) if is_train else sorted(needed):
            folder = part / found.folders[index]
            files = find_image_files(folder) if folder.is_dir() else []
            if not files and index in needed:
                raise DataError(f"no images in {folder} ({found.names[index]}): put some there, or name another class.")
            paths += files
            classes += [index] * len(files)
        images = all_images(paths, (3, self.image_size, self.image_size), self.cache_dir)
        return RawImages(images, np.array(classes), [printable(path.relative_to(found.base)) for path in paths])

    def others(self, train: RawImages) -> RawImages | None:
        """Of classes that are not tested on."""
        is_other = ~np.isin(train.classes, (*self.normal_classes, *self.anomalous_classes))
        return train.take(np.flatnonzero(is_other)) if is_other.any() else None

    @cached_property
    def _found(self) -> ClassFolders:
        return find_classes(unpacked(Path(self.root), self.cache_dir))

    def _indices(self, field: str, words: Sequence[str]) -> tuple[int, ...]:
        """Ascending. ConfigError for what is unknown or named twice."""
        index_of, names = self._found.index_of, self._found.names
        for word in words:
            if word not in index_of:
                shown = ", ".join(names[:NUM_NAMES_SHOWN]) + (" ..." if len(names) > NUM_NAMES_SHOWN else "")
                hint = did_you_mean(word, index_of)
                raise ConfigError(f"dataset.{field}: no class {word!r} in {self.root}; there are {shown}.{hint}")
        found = sorted({index_of[word] for word in words})
        if len(found) < len(words):
            raise ConfigError(f"dataset.{field} names a class twice: {', '.join(words)}.")
        return tuple(found)


def find_classes(root: Path) -> ClassFolders:
    """The classes of train and of the part that is tested. DataError where the folders are others."""
    base = unwrapped(root)
    if not (base / "train").is_dir():
        raise DataError(f"{root} holds no folder train. {ADVICE}")
    trained = {folder.name for folder in find_folders(base / "train")}
    for name in TEST_FOLDERS:
        test = base / name
        tested = {folder.name for folder in find_folders(test)} if test.is_dir() else set()
        if trained & tested:
            folders = tuple(sorted(trained | tested))
            return ClassFolders(base, test, folders, *_called(folders, _words(base)))
    raise DataError(f"neither test nor val of {base} holds a class folder of its train. {ADVICE}")


def _called(folders: Sequence[str], words: dict[str, list[str]]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names and index_of. A word that means two classes (a crane flies, or lifts) means none: their folders do."""
    means = [{folder, *words.get(folder, [])} for folder in folders]
    count = Counter(word for each in means for word in each)
    index_of = {word: index for index, each in enumerate(means) for word in each if count[word] == 1}
    index_of |= {folder: index for index, folder in enumerate(folders)}
    firsts = (words.get(folder, [folder])[0] for folder in folders)
    return tuple(first if count[first] == 1 else folder for first, folder in zip(firsts, folders)), index_of


def _words(base: Path) -> dict[str, list[str]]:
    """By folder, what the first table that is there calls it: `n02123045<tab>tabby, tabby cat`."""
    table = next((base / name for name in TABLES if (base / name).is_file()), None)
    if table is None:
        return {}
    try:
        with regular(table).open(encoding="utf-8-sig") as file:
            rows = [line.rstrip("\n").partition("\t") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read ({reason_of(error)}). Mend or remove it.") from error
    called = {folder: [word.strip() for word in names.split(",") if word.strip()] for folder, _, names in rows}
    return {folder: words for folder, words in called.items() if words}
