"""Metrics as a table. The rows come from the very dict that metrics.json holds, and are rounded here only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

INTERVAL = ("_low", "_high")
Meanings = Mapping[str, tuple[str, str]]  # key -> what it says, its ideal value: MetricSpec.meanings


@dataclass(frozen=True, kw_only=True)
class TableRow:
    key: str
    value: str
    interval: str
    meaning: str
    ideal: str


def metric_rows(metrics: Mapping[str, float | str], meanings: Meanings) -> list[TableRow]:
    """A row per metric, in the order of the dict; `<key>_low` and `<key>_high` become its interval."""
    rows = []
    for key, value in metrics.items():
        if key == "schema_version" or any(
                key.endswith(end) and key.removesuffix(end) in metrics for end in INTERVAL):
            continue
        ends = [metrics.get(key + end) for end in INTERVAL]
        interval = "" if None in ends else f"{as_text(ends[0])} to {as_text(ends[1])}"  # type: ignore[arg-type]
        meaning, ideal = meaning_of(key, meanings)
        rows.append(TableRow(key=key, value=as_text(value), interval=interval, meaning=meaning, ideal=ideal))
    return rows


def meaning_of(key: str, meanings: Meanings) -> tuple[str, str]:
    """What a metric says, and its ideal value; empty for one that `meanings` lacks."""
    of_concept = re.fullmatch(r"(.+)_concept_(\d+)", key)
    if of_concept is None:
        return meanings.get(key, ("", ""))
    return f"the same for concept {of_concept[2]}", meanings.get(of_concept[1], ("", ""))[1]


def as_text(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_table(metrics: Mapping[str, float | str], meanings: Meanings, stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("metric", "value", "95 % interval", "ideal", "meaning"):
        table.add_column(name, no_wrap=name != "meaning", justify="right" if name == "value" else "left")
    for row in metric_rows(metrics, meanings):
        table.add_row(row.key, row.value, row.interval, row.ideal, row.meaning)
    # A file or a pipe has no width of its own: lines must not be broken at 80 there, scripts read them.
    Console(file=stream, width=None if stream.isatty() else 140).print(table)
