"""What each image of a folder is for, decided from the names of folders and files before an image is opened.

Three layouts: train/good with test/<class> (and ground_truth/<class>), as MVTec AD has it; normal with anomalous;
or normal images alone.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from cfexplain.data.reading.image_files import EXTENSIONS, find_folders, find_image_files
from cfexplain.data.splits import held_out_mask
from cfexplain.errors import DataError, reason_of
from cfexplain.files import regular

log = logging.getLogger(__name__)

ROLE_FOLDERS = ("train", "test", "normal", "anomalous")
# Top-level names by which someone means roles, though they are not the ones asked for.
FAULTY = frozenset(
    {"test", "anomalous", "bad", "ng", "nok", "not_ok", "abnormal", "anomaly", "anomalies", "defect", "defects",
     "defective", "faulty"}
)  # fmt: skip
FLAWLESS = frozenset({"train", "normal", "normals", "good", "ok"})
NAMES_WANTED = "Name the folders normal and anomalous, or train/good, test/good and test/<defect>."


@dataclass(frozen=True)
class Defect:
    """An anomalous image, the class whose folder it lies in, and where its mask lies; None without ground truth."""

    path: Path
    class_name: str
    mask: Path | None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """base: the folder that names are relative to; normal_class: what the folder of normal images is called."""

    base: Path
    normal_class: str
    normals: tuple[Path, ...]
    test_normals: tuple[Path, ...]
    defects: tuple[Defect, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return (self.normal_class, *sorted({defect.class_name for defect in self.defects}))

    def with_test_normals(self, fraction: float, seed: int, groups: np.ndarray | None) -> Layout:
        """That share of the normals, and at least one, kept for testing, where the folders name none for it.

        groups: (N,) int of the normals, kept together.
        """
        if self.test_normals:
            return self
        if groups is None:
            order = np.random.default_rng([seed, 3]).permutation(len(self.normals))
            is_test = np.isin(np.arange(len(order)), order[: max(1, round(fraction * len(order)))])
        else:
            is_test = held_out_mask(np.zeros(len(groups)), fraction, seed, groups)
        return replace(
            self,
            normals=tuple(compress(self.normals, ~is_test)),
            test_normals=tuple(compress(self.normals, is_test)),
        )


def find_layout(root: Path) -> Layout:
    """DataError where the folders cannot be meant: an empty one, none of normal images, a defect without its mask."""
    base = unwrapped(root)
    if (base / "train").is_dir() or (base / "test").is_dir():
        return _train_and_test(base)
    if (base / "normal").is_dir() or (base / "anomalous").is_dir():
        return _normal_and_anomalous(base)
    return _normals_alone(base)


def unused_reason(path: Path, layout: Layout) -> str:
    """Why the layout has no place for a file below its base."""
    if path.suffix.lower() not in EXTENSIONS:
        return f"with the ending {path.suffix}" if path.suffix else "without an ending"
    *folders, _ = path.relative_to(layout.base).parts
    depth = 2 if folders and folders[0] in ROLE_FOLDERS else 1
    return f"in {'/'.join(folders[:depth])}, which stands for no part" if folders else "in no folder of a part"


def read_groups(table: Path, column: str, layout: Layout) -> np.ndarray:
    """(N,) int of the layout's normals: which of them show one part, by a CSV file with the columns `file`, of paths
    below the layout's base, and `column`. DataError where it is no such table or lacks one of them."""
    try:
        with regular(table).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            for name in ("file", column):
                if name not in (rows.fieldnames or ()):
                    raise DataError(f"{table} has no column {name!r} (dataset.group_column), only "
                                    f"{', '.join(rows.fieldnames or ()) or 'nothing'}.")
            group_of = {row["file"]: row[column] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"dataset.groups: {table} cannot be read ({reason_of(error)}).") from error
    names = [path.relative_to(layout.base).as_posix() for path in layout.normals]
    missing = [name for name in names if not group_of.get(name)]
    if missing:
        raise DataError(
            f"{table} gives no {column} for {len(missing)} of {len(names)} normal images, such as {missing[0]}."
        )
    return np.unique([group_of[name] for name in names], return_inverse=True)[1]


def _train_and_test(base: Path) -> Layout:
    normals = _images_in(base / "train/good", "the normal training images")
    unused = [name for name in _folders(base / "train") if name != "good"]
    if unused:
        log.warning("not used, as it lies beside train/good: %s", ", ".join(f"train/{name}" for name in unused))
    test = base / "test"
    test_normals = _images_in(test / "good", "normal test images") if (test / "good").is_dir() else ()
    defects = _tested(test, base / "ground_truth") if test.is_dir() else ()
    return Layout(base=base, normal_class="good", normals=normals, test_normals=test_normals, defects=defects)


def _normal_and_anomalous(base: Path) -> Layout:
    normals = _images_in(base / "normal", "the normal images")
    others = [name for name in _folders(base) if name not in ROLE_FOLDERS and find_image_files(base / name)]
    if others:
        raise DataError(f"{base / others[0]} lies beside normal: move it into {base}/anomalous, or elsewhere.")
    defects = _anomalous(base / "anomalous") if (base / "anomalous").is_dir() else ()
    return Layout(base=base, normal_class="normal", normals=normals, test_normals=(), defects=defects)


def _normals_alone(base: Path) -> Layout:
    names = _folders(base)
    faulty = [name for name in names if name.lower() in FAULTY]
    flawless = [name for name in names if name.lower() in FLAWLESS and len(names) > 1]
    for name in faulty + flawless:
        raise DataError(f"{base} holds a folder {name!r}, so not all of it is normal. {NAMES_WANTED}")
    return Layout(base=base, normal_class="normal", normals=_images_in(base, "images"), test_normals=(), defects=())


def unwrapped(root: Path) -> Path:
    """A zip often holds one folder with everything in it; go down to where the images or the roles begin."""
    base = root
    while len(inside := _folders(base)) == 1 and not _directly_in(base):
        if inside[0].lower() in (*ROLE_FOLDERS, *FAULTY):
            break
        base = base / inside[0]
    return base


def _directly_in(folder: Path) -> list[Path]:
    return [path for path in find_image_files(folder) if path.parent == folder]


def _folders(folder: Path) -> list[str]:
    return [path.name for path in find_folders(folder)]


def _images_in(folder: Path, meaning: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: put {meaning} there.")
    found = find_image_files(folder)
    if not found:
        raise DataError(f"no images (.png, .jpg, .tif ...) in {folder}: put {meaning} there.")
    return tuple(found)


def _tested(test: Path, truth: Path) -> tuple[Defect, ...]:
    """All of test/ but test/good."""
    stray = _directly_in(test)
    if stray:
        raise DataError(f"{stray[0]} is in no class folder: put it into {test}/good or {test}/<defect>.")
    if not _folders(test):
        raise DataError(f"no class folders in {test}: put images into {test}/good and {test}/<defect>, or remove it.")
    return tuple(
        Defect(path, name, _mask_of(path, test, truth)) for name in _folders(test) if name != "good"
        for path in _images_in(test / name, "its images")
    )


def _anomalous(folder: Path) -> tuple[Defect, ...]:
    """Sub-folders are classes; what lies beside them is of the class 'anomalous'."""
    names = _folders(folder)
    if "normal" in names:
        raise DataError(f"{folder}/normal: a class of anomalies cannot be called normal. Rename the folder.")
    defects = [Defect(path, "anomalous", None) for path in _directly_in(folder)]
    if not names and not defects:
        raise DataError(f"no images in {folder}: put the anomalous images there, or remove the folder.")
    for name in names:
        defects += [Defect(path, name, None) for path in _images_in(folder / name, "its images")]
    return tuple(defects)


def _mask_of(path: Path, test: Path, truth: Path) -> Path | None:
    if not truth.is_dir():
        return None
    mask = truth / path.relative_to(test).with_name(f"{path.stem}_mask.png")
    if not mask.is_file():
        raise DataError(f"{path} has no mask: put it at {mask}, or remove the folder {truth}.")
    return mask
