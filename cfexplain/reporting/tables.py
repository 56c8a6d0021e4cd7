"""Tables for reading. Metrics come from the very dict that metrics.json holds, and are rounded here only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from cfexplain.metrics.baselines import METHODS, NUM_IMAGES, PREFIX

INTERVAL = ("_low", "_high")
Meanings = Mapping[str, tuple[str, str]]  # key -> what it says, its ideal value: MetricSpec.meanings
NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class Table:
    """numbers: headings of the columns that are aligned at the right; unbroken: of those that keep to one line."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] = ()
    unbroken: Collection[str] = ()
    title: str = ""


def metric_table(
    metrics: Mapping[str, float | str], meanings: Meanings, reported: Mapping[str, float] = NOTHING
) -> Table:
    """A row per metric, in the order of the dict; `<key>_low` and `<key>_high` become its interval.

    Those of the baselines have a table of their own. reported: what the paper gives, by the same keys.
    """
    rows = []
    for key, value in metrics.items():
        if key == "schema_version" or key.startswith(PREFIX) or any(
                key.endswith(end) and key.removesuffix(end) in metrics for end in INTERVAL):
            continue
        ends = [as_text(metrics[key + end]) for end in INTERVAL if key + end in metrics]
        paper = [as_text(reported[key]) if key in reported else ""] if reported else []
        meaning, ideal = meaning_of(key, meanings)
        rows.append([key, as_text(value), " to ".join(ends) if len(ends) == 2 else "", *paper, ideal, meaning])
    unbroken = ["metric", "value", "95 % interval", *(["paper"] if reported else []), "ideal"]
    return Table(headings=[*unbroken, "meaning"], rows=rows, numbers=("value", "paper"), unbroken=unbroken)


def method_table(metrics: Mapping[str, float | str], meanings: Meanings) -> Table | None:
    """What the metrics hold of the baselines: one row for each way to make a counterfactual, and one for the ideal.

    None where they were not measured.
    """
    if NUM_IMAGES not in metrics:
        return None
    values = {
        method: {key.removeprefix(f"{PREFIX}{method}_"): as_text(value) for key, value in metrics.items()
                 if key.startswith(f"{PREFIX}{method}_") and not key.endswith(INTERVAL)}
        for method in METHODS
    }
    keys = list(dict.fromkeys(key for of_method in values.values() for key in of_method))
    rows = [[method, *(of_method.get(key, "-") for key in keys)] for method, of_method in values.items()]
    return Table(
        title=f"Compared with baselines, on the same {metrics[NUM_IMAGES]} images", headings=["method", *keys],
        rows=[*rows, ["ideal", *(meaning_of(key, meanings)[1] for key in keys)]], numbers=keys, unbroken=["method"],
    )


def meaning_of(key: str, meanings: Meanings) -> tuple[str, str]:
    """What a metric says, and its ideal value; empty for one that `meanings` lacks."""
    of_concept = re.fullmatch(r"(.+)_concept_(\d+)", key)
    if of_concept is None:
        return meanings.get(key, ("", ""))
    return f"the same for concept {of_concept[2]}", meanings.get(of_concept[1], ("", ""))[1]


def as_text(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_metrics(
    metrics: Mapping[str, float | str], meanings: Meanings, stream: TextIO, reported: Mapping[str, float] = NOTHING
) -> None:
    tables = [metric_table(metrics, meanings, reported)]
    if (methods := method_table(metrics, meanings)) is not None:
        broken = {heading: heading.replace("_", "\n") for heading in methods.headings}
        tables.append(replace(methods, headings=list(broken.values()), numbers=list(broken.values())[1:]))
    print_tables(tables, stream, 140)


def print_tables(tables: Iterable[Table], stream: TextIO, width: int) -> None:
    """width: of a file or a pipe, which has none; lines must not be broken at 80 there, scripts read them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(file=stream, width=None if stream.isatty() else width, highlight=False, markup=False)
    for table in tables:
        shown = RichTable(box=box.SIMPLE_HEAD, title=table.title or None, title_justify="left", title_style="bold")
        for heading in table.headings:
            shown.add_column(
                heading, justify="right" if heading in table.numbers else "left", no_wrap=heading in table.unbroken,
                overflow="fold", vertical="bottom" if "\n" in heading else "top",
            )
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
