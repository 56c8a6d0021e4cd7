"""The split of a run, as its split.csv says: which images, known by their content, it has for what.

Data that changed since are told, and what is new or another under its name takes no part: it may be known to the run,
or be drawn into another part than the run had it in.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cfexplain.errors import CfexplainWarning, DataError, reason_of
from cfexplain.files import regular
from cfexplain.types import ImageSet, Splits

PARTS = ("train", "held_out", "test")
COLUMNS = ("id", "role", "class")
DIGEST_LENGTH = 32  # of names and contents; earlier versions had 16 digits of names alone


@dataclass(frozen=True, kw_only=True)
class FoundImage:
    """One that is there now. sha256: of its file."""

    id: str
    class_name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FoundAgain:
    """indices: of the images that are there now, for each of PARTS, in the order of split.csv; and what has changed."""

    indices: dict[str, list[int]]
    num_new: int
    num_gone: int
    num_changed: int

    @property
    def has_changed(self) -> bool:
        return self.num_new + self.num_gone + self.num_changed > 0


@dataclass(frozen=True, kw_only=True)
class RecordedSplit:
    """rows: of the file. One without sha256, of an earlier version, is known by its id."""

    file: Path
    rows: tuple[dict[str, str], ...]

    def find_again(self, images: Sequence[FoundImage]) -> FoundAgain:
        """Under its id or, where that has another content, under any."""
        by_id = {image.id: index for index, image in enumerate(images)}
        by_content = defaultdict(list)
        for index, image in enumerate(images):
            by_content[image.sha256, image.class_name].append(index)
        indices: dict[str, list[int]] = {part: [] for part in PARTS}
        taken: set[int] = set()
        missing: list[str] = []
        for row in self.rows:
            here, content = by_id.get(row["id"]), row.get("sha256")
            places = by_content[content, row["class"]] if content else []
            if here is not None and (here in places or not content and images[here].class_name == row["class"]):
                places = [here, *places]
            place = next((index for index in places if index not in taken), None)
            if row["role"] in PARTS and place is None:
                missing.append(row["id"])
            elif row["role"] in PARTS:
                taken.add(place)
                indices[row["role"]].append(place)
        known = {row["id"] for row in self.rows}
        num_changed = sum(id in by_id for id in missing)
        return FoundAgain(
            indices=indices, num_new=sum(image.id not in known for index, image in enumerate(images)
                                         if index not in taken),
            num_gone=len(missing) - num_changed, num_changed=num_changed,
        )

    def check_exposure(self, splits: Splits) -> None:
        """A CfexplainWarning where the exposure images are not those of the run; of drawn ones none are kept."""
        before = Counter(row["sha256"] for row in self.rows if row["role"] == "exposure" and row.get("sha256"))
        if splits.exposure is None or splits.fresh is not None or not before:
            return
        now = Counter(contents(splits.exposure, splits))
        if now != before:
            warnings.warn(
                f"the exposure images are not those of the training: {(now - before).total()} new, "
                f"{(before - now).total()} gone since {self.file}", CfexplainWarning, stacklevel=3,
            )

    def change_words(self, found: FoundAgain, where: Path | str) -> str:
        return (
            f"{where} has changed since the training: {found.num_new} images new, {found.num_gone} gone, "
            f"{found.num_changed} changed. The run keeps the split of {self.file}: new and changed ones are left out"
        )


def read_split(file: Path) -> RecordedSplit | None:
    """None where there is none. DataError where it is damaged."""
    try:
        with regular(file).open(encoding="utf-8", newline="") as opened:
            reader = csv.DictReader(opened)
            rows = tuple(reader)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({reason_of(error)}). Take it from a copy of the run.") from error
    if not rows or any(row.get(column) is None for row in rows for column in COLUMNS):
        raise DataError(f"{file} is damaged: a row lacks id, role or class. Take it from a copy of the run.")
    return RecordedSplit(file=file, rows=rows)


def found_images(splits: Splits) -> list[FoundImage]:
    """Those of PARTS, in their order."""
    parts = (splits.train, splits.held_out, splits.test)
    return [
        FoundImage(id=id, class_name=splits.class_names[index], sha256=sha256) for part in parts
        for id, index, sha256 in zip(part.ids, part.classes.tolist(), contents(part, splits), strict=True)
    ]


def digest_of(ids: Sequence[str], contents: Sequence[str]) -> str:
    """Hex digits of images: of their names and of what they hold."""
    lines = [line for pair in zip(ids, contents, strict=True) for line in pair]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_LENGTH]


def contents(images: ImageSet, splits: Splits) -> list[str]:
    """sha256 of each image: of its file where that is known, else of its pixels."""
    return [
        splits.digests.get(id) or hashlib.sha256(image.numpy().tobytes()).hexdigest()
        for id, image in zip(images.ids, images.images, strict=True)
    ]
