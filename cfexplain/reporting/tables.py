"""Metrics as a table. The rows come from the very dict that metrics.json holds, and are rounded here only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from cfexplain.metrics.baselines import METHODS, NUM_IMAGES, PREFIX

INTERVAL = ("_low", "_high")
Meanings = Mapping[str, tuple[str, str]]  # key -> what it says, its ideal value: MetricSpec.meanings
NOTHING: Mapping[str, float] = {}
PAPER = "paper"
COLUMNS = {  # heading -> field of TableRow
    "metric": "key", "value": "value", "95 % interval": "interval", PAPER: "paper", "ideal": "ideal",
    "meaning": "meaning",
}
NUMBERS = ("value", PAPER)  # aligned at the right
BASELINES_TITLE = "Compared with baselines, on the same {} images"
IDEAL = "ideal"  # the line below the methods


@dataclass(frozen=True, kw_only=True)
class TableRow:
    key: str
    value: str
    interval: str
    paper: str
    meaning: str
    ideal: str


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """columns: heading -> field of a row; numbers: headings of those that are aligned at the right."""

    columns: dict[str, str]
    rows: list[TableRow]
    numbers: tuple[str, ...] = NUMBERS


@dataclass(frozen=True, kw_only=True)
class MethodTable:
    """One line for each way to make a counterfactual, and one for the ideal. headings: metric keys."""

    title: str
    headings: list[str]
    lines: dict[str, list[str]]


def columns(reported: Mapping[str, float]) -> dict[str, str]:
    """Headings with the fields below them; the paper's column where it reports something."""
    return {heading: name for heading, name in COLUMNS.items() if heading != PAPER or reported}


def metric_table(
    metrics: Mapping[str, float | str], meanings: Meanings, reported: Mapping[str, float] = NOTHING
) -> MetricTable:
    return MetricTable(columns=columns(reported), rows=metric_rows(metrics, meanings, reported))


def metric_rows(
    metrics: Mapping[str, float | str], meanings: Meanings, reported: Mapping[str, float] = NOTHING
) -> list[TableRow]:
    """A row per metric, in the order of the dict; `<key>_low` and `<key>_high` become its interval.

    Those of the baselines have a table of their own. reported: what the paper gives, by the same keys.
    """
    rows = []
    for key, value in metrics.items():
        if key == "schema_version" or key.startswith(PREFIX) or any(
                key.endswith(end) and key.removesuffix(end) in metrics for end in INTERVAL):
            continue
        ends = [metrics.get(key + end) for end in INTERVAL]
        interval = "" if None in ends else f"{as_text(ends[0])} to {as_text(ends[1])}"  # type: ignore[arg-type]
        meaning, ideal = meaning_of(key, meanings)
        paper = as_text(reported[key]) if key in reported else ""
        rows.append(TableRow(
            key=key, value=as_text(value), interval=interval, paper=paper, meaning=meaning, ideal=ideal
        ))
    return rows


def method_table(metrics: Mapping[str, float | str], meanings: Meanings) -> MethodTable | None:
    """What the metrics hold of the baselines; None where they were not measured."""
    if NUM_IMAGES not in metrics:
        return None
    values = {
        method: {key.removeprefix(f"{PREFIX}{method}_"): value for key, value in metrics.items()
                 if key.startswith(f"{PREFIX}{method}_") and not key.endswith(INTERVAL)}
        for method in METHODS
    }
    headings = list(dict.fromkeys(key for of_method in values.values() for key in of_method))
    lines = {
        method: [as_text(of_method[key]) if key in of_method else "-" for key in headings]
        for method, of_method in values.items()
    }
    lines[IDEAL] = [meaning_of(key, meanings)[1] for key in headings]
    return MethodTable(title=BASELINES_TITLE.format(metrics[NUM_IMAGES]), headings=headings, lines=lines)


def meaning_of(key: str, meanings: Meanings) -> tuple[str, str]:
    """What a metric says, and its ideal value; empty for one that `meanings` lacks."""
    of_concept = re.fullmatch(r"(.+)_concept_(\d+)", key)
    if of_concept is None:
        return meanings.get(key, ("", ""))
    return f"the same for concept {of_concept[2]}", meanings.get(of_concept[1], ("", ""))[1]


def as_text(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_table(
    metrics: Mapping[str, float | str], meanings: Meanings, stream: TextIO, reported: Mapping[str, float] = NOTHING
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    shown = columns(reported)
    for name in shown:
        table.add_column(name, no_wrap=name != "meaning", justify="right" if name in NUMBERS else "left")
    for row in metric_rows(metrics, meanings, reported):
        table.add_row(*(getattr(row, field) for field in shown.values()))
    # A file or a pipe has no width of its own: lines must not be broken at 80 there, scripts read them.
    console = Console(file=stream, width=None if stream.isatty() else 140)
    console.print(table)
    if (methods := method_table(metrics, meanings)) is not None:
        table = Table(box=box.SIMPLE_HEAD, title=methods.title, title_justify="left", title_style="bold")
        table.add_column("method", no_wrap=True)
        for heading in methods.headings:
            table.add_column(heading.replace("_", "\n"), justify="right", vertical="bottom")
        for method, texts in methods.lines.items():
            table.add_row(method, *texts)
        console.print(table)
