"""inspections/00000.pt, 00001.pt, ...: the explanations of an explain run, a file for each batch, as plain dicts.

What was measured on them lies beside, in 00000-measured.pt, ...: metrics read the explanations alone.

A batch is on disk before the next one starts, so memory stays flat, a run that was killed goes on with the batch it was
at, and shards are merged by putting their files together.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cfexplain.engine import checkpoint
from cfexplain.errors import DataError, reason_of
from cfexplain.files import check_kinds, read_json, replacing, write_json
from cfexplain.inspection.base import Inspection
from cfexplain.inspection.shards import KINDS as SHARD_KINDS, merge_command
from cfexplain.lazy import Tensor
from cfexplain.older_runs import measured_beside_explanations
from cfexplain.runs.lookup import metrics_of, parent_runs
from cfexplain.types import Explanations, ImageSet, joined

FOLDER, INDEX = "inspections", "index.json"
KINDS = {  # of what the index holds
    "of_test_anomalies": bool, "class_names": list[str], "images_digest": str, "false_alarm_rate": float,
    "threshold": float, "num_held_out": int, "normal_survival": float | None, "features": str, "second_detector": str,
    "shard": dict | None,
}
SHAPES = {  # of what a batch holds; a letter is the same number wherever it stands
    "sources": {"images": "NCYX", "labels": "N", "classes": "N"},
    "explanations": {"images": "NAKCYX", "logits": "NAK", "source_logits": "N"},
    "measured": {
        "verdict_codes": "NK", "position_before": "N", "position_after": "NK", "survives": "NKM",
        "manifold_distance": "NK", "duplicate_of": "NK", "way_logits": "NKW", "repairs": "NKCYX",
        "repair_logits": "NK", "heatmaps": "NYX", "nearest": "NCYX", "plausible": "NCYX",
    },
}
SOURCES = ("images", "labels", "classes", "ids")
EXPLANATIONS = ("images", "logits", "source_logits", "threshold")
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, AssertionError)
MEASURED = tuple(field.name for field in fields(Inspection) if field.name != "explanations")


@dataclass(frozen=True, kw_only=True)
class SavedInspections:
    """The batches of one explain run, in their order. remedy: what to type where one is damaged."""

    folder: Path
    remedy: str

    @property
    def index(self) -> dict[str, Any]:
        """What holds for all batches: of_test_anomalies, class_names, shard, and what they were made of."""
        try:
            values = read_json(self.folder / FOLDER / INDEX, KINDS)
            check_kinds(self.folder / FOLDER / INDEX, values["shard"] or {}, SHARD_KINDS if values["shard"] else {})
            return values
        except DataError as error:
            raise DataError(f"{error}; {self.remedy}") from error

    def begin(self, values: dict[str, Any]) -> None:
        """Note what holds for all batches; those that an earlier attempt left stay where it said the same."""
        (self.folder / FOLDER).mkdir(exist_ok=True)
        path = self.folder / FOLDER / INDEX
        with suppress(DataError):  # of a damaged one nothing is known
            index = self.index
            if {name: index.get(name) for name in values} == values:
                return
        for file in (self.folder / FOLDER).glob("[0-9]*.pt"):
            file.unlink()
        write_json(path, values)

    @property
    def files(self) -> list[Path]:
        """Of the explanations."""
        return sorted((self.folder / FOLDER).glob("[0-9]*[0-9].pt"))

    def path(self, number: int) -> Path:
        return self.folder / FOLDER / f"{number:05d}.pt"

    def has(self, number: int) -> bool:
        """Is that batch there, and whole?"""
        if not self.path(number).exists():
            return False
        try:
            self._inspection(self.path(number))
        except DataError:
            return False
        return True

    def save(self, number: int, inspection: Inspection) -> None:
        explanations, sources = inspection.explanations, inspection.explanations.sources
        path = self.path(number)
        checkpoint.save(_measured(path), {name: _plain(getattr(inspection, name)) for name in MEASURED})
        checkpoint.save(path, {
            "sources": {name: _plain(getattr(sources, name)) for name in SOURCES},
            "explanations": {name: _plain(getattr(explanations, name)) for name in EXPLANATIONS},
        })

    def copy(self, file: Path) -> None:
        """Another run's batch under the same number, whole or not at all."""
        for part in filter(Path.exists, (_measured(file), file)):
            with part.open("rb") as other, replacing(self.folder / FOLDER / part.name) as target:
                shutil.copyfileobj(other, target)

    @property
    def num_images(self) -> int:
        return sum(len(self._explanations(file, self._load(file)).sources) for file in self.files)

    def check_whole(self) -> None:
        """DataError where there are fewer explanations than the run counted when it ended."""
        noted, found = metrics_of(self.folder), self.num_images
        wanted = noted.get("num_images", noted.get("num_own_images", found))
        if not found or found != wanted:
            raise DataError(f"{self.folder}/{FOLDER} has {found} of {wanted:g} explained images; {self.remedy}")

    def __iter__(self) -> Iterator[Inspection]:
        return map(self._inspection, self.files)

    def _load(self, file: Path) -> dict[str, Any]:
        return checkpoint.load(file, self.remedy)

    def _inspection(self, file: Path) -> Inspection:
        values = self._load(file)
        explanations = self._explanations(file, values)
        measured = dict(measured_beside_explanations(values) or self._load(_measured(file)))
        try:
            measured.setdefault("plausible", measured["nearest"])  # earlier versions drew none
            _check_shapes({
                "sources": vars(explanations.sources), "explanations": vars(explanations), "measured": measured,
            })
            return Inspection(explanations=explanations, **{name: _restored(measured[name]) for name in MEASURED})
        except DAMAGED as error:
            raise DataError(f"{file} is damaged ({reason_of(error)}); {self.remedy}") from error

    def explanations(self) -> Explanations:
        """Of all batches, for metrics. DataError where they are a part only, or of images without metrics."""
        index = self.index
        if not index["of_test_anomalies"]:
            raise DataError(f"{self.folder} explains your own images, and metrics need the test anomalies; "
                            f"{self.remedy}")
        shard = index["shard"]
        if shard is not None and shard["num_shards"] > 1:
            command = merge_command(parent_runs(self.folder)[0], self.folder)
            raise DataError(
                f"{self.folder} is shard {shard['index']}/{shard['num_shards']}, and metrics need all images; merge "
                f"the {shard['num_shards']} shards first: {command}"
            )
        self.check_whole()
        return joined([self._explanations(file, self._load(file)) for file in self.files])

    def _explanations(self, file: Path, values: dict[str, Any]) -> Explanations:
        try:
            _check_shapes(values)
            if not isinstance(values["explanations"]["threshold"], float):
                raise ValueError("explanations: threshold is no number")
            sources = ImageSet(**values["sources"] | {"ids": tuple(values["sources"]["ids"])})
            return Explanations(sources=sources, **values["explanations"])
        except DAMAGED as error:
            raise DataError(f"{file} is damaged ({reason_of(error)}); {self.remedy}") from error


def _check_shapes(values: Mapping[str, Any]) -> None:
    """ValueError where a tensor is of another shape than those beside it, or a list of ids of another length."""
    sizes: dict[str, int] = {}
    for part in filter(values.__contains__, SHAPES):
        for name, letters in SHAPES[part].items():
            found = tuple(values[part][name].shape)
            if len(found) != len(letters) or found != tuple(map(sizes.setdefault, letters, found)):
                raise ValueError(f"{part}: {name} has the shape {list(found)}")
    for part, names in (("sources", ("ids",)), ("measured", ("nearest_ids", "alterations"))):
        for name in names if part in values else ():
            texts = values[part][name]
            if len(texts) != sizes["M" if name == "alterations" else "N"] or not all(type(t) is str for t in texts):
                raise ValueError(f"{part}: {name} are no {len(texts)} names")


def _plain(value: Tensor | tuple[str, ...] | float | None) -> Any:
    """A view would be saved with all that it is a view of."""
    if isinstance(value, tuple):
        return list(value)
    return value.clone() if hasattr(value, "clone") else value


def _restored(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _measured(file: Path) -> Path:
    return file.with_stem(f"{file.stem}-measured")
