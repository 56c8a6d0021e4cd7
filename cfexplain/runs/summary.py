"""Many runs as one table: a row a cell, and means over seeds and over normal sets.

A cell is a run at the end of its chain: an evaluate run stands for the explain and the train run below it, whose
numbers it takes over. Its values are those of the train run's config, for the later commands know no other.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfexplain import config as configs
from cfexplain.errors import CfexplainError
from cfexplain.runs.lookup import metrics_of, parent_runs, reason_of, record_of, status_of

PARTS = ("exposure", "encoder", "generator")  # groups whose choice may tell cells apart
SAME_FOR_ALL = (  # where a run is written and how it is shown, not what it computes
    *configs.PLACES, "run", "runs", "device", "stage", "num_grid_images", "num_film_strips", "allow_custom_code",
    "sheet", "num_sheet_pairs", "sheet_against", "sheet_answers",
)
NO_MODEL = ("compare", "sheet", "sheet_answers")  # what an evaluate run was asked for in the place of metrics
IDENTITY = ("dataset", "normal", "detector")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """folder: of the run; values: column -> what tells it apart; reason: why it is not done."""

    folder: Path
    status: str
    reason: str
    values: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """std: sample standard deviation (n - 1); None for one value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that differ in one value alone. num_done of its num_members members have numbers."""

    values: Mapping[str, str]
    num_members: int
    num_done: int
    metrics: Mapping[str, Spread]

    @property
    def is_done(self) -> bool:
        return self.num_done == self.num_members


@dataclass(frozen=True, kw_only=True)
class Summary:
    """columns: of `values`, in their order. over_seeds, over_normals: groups of two members or more."""

    columns: tuple[str, ...]
    cells: Sequence[Cell]
    over_seeds: Sequence[Group]
    over_normals: Sequence[Group]

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(key for cell in self.cells for key in cell.metrics))


def summarize(folders: Iterable[Path], slug: Callable[[Mapping[str, Any]], str]) -> Summary:
    """slug: the name of a dataset config, '<dataset>-<normal set>'. A comparison of runs, and a sheet, have no row."""
    chains = {folder: _chain(folder) for folder in folders if not any(map(_config(folder).get, NO_MODEL))}
    inner = {parent.resolve() for chain in chains.values() for parent in chain[:-1]}
    ends = {folder: chain for folder, chain in chains.items() if folder.resolve() not in inner}
    known = {folder: _values(chain, slug) for folder, chain in ends.items()}
    columns = _columns(list(known.values()))
    cells = [_cell(folder, chain, known[folder], columns) for folder, chain in ends.items()]
    seeds = _groups(cells, columns, "seed")
    return Summary(
        columns=columns,
        cells=cells,
        over_seeds=[group for group in seeds if group.num_members > 1],
        over_normals=[group for group in _groups_of_groups(seeds, "normal") if group.num_members > 1],
    )


def _chain(folder: Path) -> list[Path]:
    """The runs that led to a run, the train run first, itself last."""
    record = record_of(folder)
    parents = parent_runs(folder)
    if not parents and record.get("command") in ("explain", "evaluate"):  # it failed before it noted them
        named = _config(folder).get("run")
        parents = [*_chain(Path(named))] if named and (Path(named) / "run.json").is_file() else []
    return [*parents, folder]


def _config(folder: Path) -> dict[str, Any]:
    try:
        return configs.read(folder / "config.yaml")
    except CfexplainError:
        return {}


def _values(chain: list[Path], slug: Callable[[Mapping[str, Any]], str]) -> dict[str, str]:
    """Every value of a cell that may tell it from another, as text, the telling ones first."""
    values: dict[str, Any] = {}
    for folder in chain:
        command, config = record_of(folder).get("command", "train"), _config(folder)
        if command == "train" and isinstance(config.get("dataset"), dict):
            values |= _names(config, slug)
        own = {key: value for key, value in configs.flat(config).items() if key not in SAME_FOR_ALL}
        prefix = "" if command == "train" else f"{command}."
        values |= {prefix + key: value for key, value in own.items() if not key.endswith("_target_")}
    return {key: " ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in values.items()}


def _names(config: Mapping[str, Any], slug: Callable[[Mapping[str, Any]], str]) -> dict[str, Any]:
    dataset, _, normal = slug(config["dataset"]).partition("-")
    parts = {part: _part_name(config, part) for part in PARTS}
    return {"dataset": dataset, "normal": normal, "detector": _part_name(config, "detector"),
            "seed": config.get("seed"), **parts}


def _part_name(config: Mapping[str, Any], part: str) -> str:
    """cfexplain.detectors.hsc.Hsc -> hsc: the class, as it stands in `detector=hsc`."""
    node = config.get(part)
    return str(node.get("_target_", "")).rpartition(".")[2].lower() if isinstance(node, Mapping) else ""


def _columns(known: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Dataset, normal set, detector, seed; then each value in which cells differ that agree in all earlier columns.

    A value that follows from an earlier column tells nothing new: each dataset brings its own encoder. A seed brings
    nothing along.
    """
    columns = list(IDENTITY)
    for key in dict.fromkeys(key for values in known for key in values):
        if key == "seed" or key in columns:
            continue
        seen: dict[tuple[str, ...], str] = {}
        of_cell = [(tuple(values.get(name, "") for name in columns), values[key]) for values in known if key in values]
        if any(seen.setdefault(place, value) != value for place, value in of_cell):
            columns.append(key)
    return (*IDENTITY, "seed", *columns[len(IDENTITY):])


def _cell(folder: Path, chain: list[Path], values: Mapping[str, str], columns: Sequence[str]) -> Cell:
    record = record_of(folder)
    status, reason, metrics = status_of(record), "", {}
    if status != "done":
        first = next((run for run in chain if status_of(record_of(run)) != "done"), folder)
        of_earlier = f"{record_of(first).get('command')}: " if first != folder else ""
        reason = of_earlier + reason_of(first, record_of(first))
    else:
        for run in chain:
            metrics |= metrics_of(run)
    return Cell(
        folder=folder, status=status, reason=reason, metrics=metrics,
        values={name: values.get(name, "") for name in columns},
    )


def _groups(cells: Sequence[Cell], columns: Sequence[str], over: str) -> list[Group]:
    members: dict[tuple[str, ...], list[Cell]] = {}
    names = [name for name in columns if name != over]
    for cell in cells:
        members.setdefault(tuple(cell.values[name] for name in names), []).append(cell)
    return [
        Group(
            values=dict(zip(names, place, strict=True)),
            num_members=len(group),
            num_done=sum(cell.status == "done" for cell in group),
            metrics=_spreads([cell.metrics for cell in group]),
        )
        for place, group in members.items()
    ]


def _groups_of_groups(groups: Sequence[Group], over: str) -> list[Group]:
    """Of the means of each group: every normal set counts once, however many seeds it has."""
    means = [
        Cell(folder=Path(), status="done" if group.metrics else "failed", reason="", values=group.values,
             metrics={key: found.mean for key, found in group.metrics.items()})
        for group in groups
    ]
    return _groups(means, list(groups[0].values) if groups else [], over)


def _spreads(metrics: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    spreads = {}
    for key in dict.fromkeys(key for values in metrics for key in values):
        values = [each[key] for each in metrics if key in each]
        std = statistics.stdev(values) if len(values) > 1 else None
        spreads[key] = Spread(mean=statistics.fmean(values), std=std, n=len(values))
    return spreads
