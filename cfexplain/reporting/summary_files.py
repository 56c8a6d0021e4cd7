"""A Summary as files and on the screen: every number in summary.csv and summary.json, the headlines in .md and .tex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from cfexplain.files import write_csv, write_json, write_text
from cfexplain.metrics.auroc import Auroc
from cfexplain.metrics.classes import Classes
from cfexplain.metrics.concept import Concept
from cfexplain.metrics.fid import Fid
from cfexplain.metrics.oracle import Oracle
from cfexplain.metrics.validity import Validity
from cfexplain.reporting.tables import as_text, print_tables, Table
from cfexplain.runs.summary import Cell, Group, Spread, Summary

METRICS = (Auroc, Validity, Fid, Concept, Oracle, Classes)  # whose numbers are headlines
NAMES = ("summary.csv", "summary.json", "summary.md", "summary.tex")
MEANS = "Mean ± sample standard deviation; over normal sets: of the means over seeds, each set counting once"


def write_summary(summary: Summary, folder: Path, headlines: Mapping[str, str]) -> None:
    """headlines: key of a metric -> its ideal value."""
    write_csv(folder / "summary.csv", _csv_rows(summary, folder))
    write_json(folder / "summary.json", as_json(summary, folder))
    write_text(folder / "summary.md", _as_markdown(summary, folder, headlines))
    write_text(folder / "summary.tex", _as_latex(summary, folder, headlines))


def show_summary(summary: Summary, folder: Path, headlines: Sequence[str], stream: TextIO) -> None:
    """Write the files, print the tables. headlines: keys of metrics, with the ideal values that these declare."""
    meanings = {key: value for metric in METRICS for key, value in metric.meanings.items()}
    ideals = {key: meanings.get(key, ("", ""))[1] for key in headlines}
    write_summary(summary, folder, ideals)
    print_tables(tables(summary, folder, ideals), stream, 240)
    print(_in_words(summary, ideals), file=stream)
    print(f"summary: {folder / NAMES[0]} and {', '.join(NAMES[1:])}", file=stream, flush=True)


def tables(summary: Summary, folder: Path, headlines: Mapping[str, str]) -> list[Table]:
    """Those that have rows."""
    keys = [key for key in headlines if key in summary.metrics]
    names = summary.columns
    cells = [
        [_name(cell, folder), *(cell.values[name] for name in names), cell.status,
         *(as_text(cell.metrics[key]) if key in cell.metrics else "" for key in keys)]
        for cell in summary.cells
    ]
    failures = [[_name(cell, folder), cell.status, cell.reason] for cell in summary.cells if cell.status != "done"]
    found = [
        Table(title="Cells", headings=["cell", *names, "status", *keys], numbers=keys, rows=cells),
        _group_table("Mean over seeds", "cells", summary.over_seeds, keys),
        _group_table("Mean over normal sets", "normal sets", summary.over_normals, keys),
        Table(title="Not done", headings=["cell", "status", "reason"], rows=failures),
    ]
    return [table for table in found if table.rows]


def as_json(summary: Summary, folder: Path) -> dict[str, Any]:
    return {
        "columns": list(summary.columns),
        "cells": [
            {"cell": _name(cell, folder), "status": cell.status, "reason": cell.reason or None,
             "values": dict(cell.values), "metrics": dict(cell.metrics)}
            for cell in summary.cells
        ],
        "over_seeds": [_group_as_json(group) for group in summary.over_seeds],
        "over_normals": [_group_as_json(group) for group in summary.over_normals],
    }


def _group_as_json(group: Group) -> dict[str, Any]:
    metrics = {key: asdict(spread) for key, spread in group.metrics.items()}
    return {"values": dict(group.values), "members": group.num_members, "done": group.num_done, "metrics": metrics}


def _csv_rows(summary: Summary, folder: Path) -> list[dict[str, Any]]:
    """`row` says what a line is: cell, over seeds, over normal sets. A cell has no std."""
    keys = summary.metrics

    def line(row: str, cell: str, values: Mapping[str, str], status: str, n: int, spreads: Mapping[str, Spread],
             reason: str = "") -> dict[str, Any]:
        columns = {name: values.get(name, "") for name in summary.columns}
        numbers = {}
        for key in keys:
            mean, std = (spreads[key].mean, spreads[key].std) if key in spreads else ("", None)
            numbers |= {key: mean, f"{key}_std": "" if std is None else std}
        return {"row": row, "cell": cell, **columns, "status": status, "n": n, **numbers, "reason": reason}

    lines = [
        line("cell", _name(cell, folder), cell.values, cell.status, int(cell.status == "done"),
             {key: Spread(mean=value, std=None, n=1) for key, value in cell.metrics.items()}, cell.reason)
        for cell in summary.cells
    ]
    for row, groups in (("over seeds", summary.over_seeds), ("over normal sets", summary.over_normals)):
        lines += [
            line(row, "", group.values, "done" if group.is_done else "incomplete", group.num_done, group.metrics)
            for group in groups
        ]
    return lines


def _as_markdown(summary: Summary, folder: Path, headlines: Mapping[str, str]) -> str:
    parts = [f"# Summary of {folder.name}", _in_words(summary, headlines)]
    for table in tables(summary, folder, headlines):
        rules = ["---:" if heading in table.numbers else "---" for heading in table.headings]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.headings, rules, *table.rows)]
        parts.append("\n".join([f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def _as_latex(summary: Summary, folder: Path, headlines: Mapping[str, str]) -> str:
    """One tabular a table; \\usepackage{booktabs}."""
    parts = [f"% {_in_words(summary, headlines)}"]
    for table in tables(summary, folder, headlines):
        layout = "".join("r" if heading in table.numbers else "l" for heading in table.headings)
        rows = [" & ".join(map(_escaped, row)) + r" \\" for row in table.rows]
        parts.append("\n".join([
            f"% {table.title}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule",
            " & ".join(map(_escaped, table.headings)) + r" \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}",
        ]))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _group_table(title: str, unit: str, groups: Sequence[Group], keys: Sequence[str]) -> Table:
    names = list(groups[0].values) if groups else []
    rows = [
        [*group.values.values(), f"{group.num_done}" if group.is_done else f"{group.num_done} of {group.num_members}",
         *(_mean_and_std(group.metrics[key], group.num_done) if key in group.metrics else "" for key in keys)]
        for group in groups
    ]
    return Table(title=title, headings=[*names, unit, *keys], numbers=[unit, *keys], rows=rows)


def _mean_and_std(found: Spread, expected: int) -> str:
    text = as_text(found.mean) + (f" ± {as_text(found.std)}" if found.std is not None else "")
    return text if found.n == expected else f"{text} (of {found.n})"


def _in_words(summary: Summary, headlines: Mapping[str, str]) -> str:
    done = sum(cell.status == "done" for cell in summary.cells)
    means = f". {MEANS}" if summary.over_seeds or summary.over_normals else ""
    ideals = [f"{key} {ideal}" for key, ideal in headlines.items() if key in summary.metrics and ideal]
    return f"{done} of {len(summary.cells)} cells done{means}." + (f" Ideal: {', '.join(ideals)}." if ideals else "")


def _name(cell: Cell, folder: Path) -> str:
    """Its folder, below the summary's where it lies there."""
    inside = cell.folder.resolve()
    return str(inside.relative_to(folder.resolve()) if inside.is_relative_to(folder.resolve()) else cell.folder)
