"""report.html: one self-contained page, readable offline, in a light and a dark scheme."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from cfexplain.files import write_text
from cfexplain.reporting.tables import columns, Meanings, method_table, MethodTable, metric_rows, NOTHING, NUMBERS

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #8886; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } .scroll { overflow-x: auto; }
"""


def write_report(
    file: Path, title: str, facts: Mapping[str, object], pictures: Sequence[tuple[str, Path]],
    metrics: Mapping[str, float | str], meanings: Meanings, notes: Sequence[str] = (),
    reported: Mapping[str, float] = NOTHING,
) -> None:
    """facts: what a reader must know first; pictures: caption and PNG file, embedded; notes: caveats of the numbers.

    reported: the paper's numbers, by the keys of `metrics`.
    """
    parts = [f"<h1>{escape(title)}</h1>", facts_table(facts)]
    if metrics:
        parts += ["<h2>Metrics</h2>", metrics_table(metrics, meanings, reported)]
    if (methods := method_table(metrics, meanings)) is not None:
        parts += [f"<h2>{escape(methods.title)}</h2>", _methods_table(methods)]
    parts += [f"<p>Note: {escape(note)}</p>" for note in notes]
    for caption, picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(f'<h2>{escape(caption)}</h2><img alt="{escape(caption)}" src="data:image/png;base64,{data}">')
    document(file, title, "\n".join(parts))


def document(file: Path, title: str, body: str, style: str = "", head: str = "") -> None:
    """A whole page around `body`; style: beside STYLE."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    write_text(file, f'<!doctype html>\n<html lang="en"><head>{meta}<title>{escape(title)}</title>{head}'
                     f"<style>{STYLE}{style}</style></head>\n<body>\n{body}\n</body></html>\n")


def facts_table(facts: Mapping[str, object]) -> str:
    rows = [f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items()]
    return f"<div class=scroll><table>{''.join(rows)}</table></div>"


def metrics_table(metrics: Mapping[str, float | str], meanings: Meanings, reported: Mapping[str, float]) -> str:
    """As HTML, in a box that scrolls sideways where it is too narrow."""
    shown = columns(reported)
    lines = ["".join(f"<th>{heading}</th>" for heading in shown)]
    lines += [
        "".join(_cell(heading, getattr(row, field)) for heading, field in shown.items())
        for row in metric_rows(metrics, meanings, reported)
    ]
    return f"<div class=scroll><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def _methods_table(methods: MethodTable) -> str:
    headings = [escape(heading).replace("_", "_<wbr>") for heading in ("method", *methods.headings)]
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    rows = [
        f"<tr><th>{escape(method)}</th>{''.join(f'<td class=number>{escape(text)}</td>' for text in texts)}</tr>"
        for method, texts in methods.lines.items()
    ]
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _cell(heading: str, text: str) -> str:
    return f"<td{' class=number' if heading in NUMBERS else ''}>{escape(text)}</td>"
