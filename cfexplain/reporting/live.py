"""live.html in the folder of a training run: curves, the newest picture, status and ETA.

It is written again at each tick and loads itself again while the run goes on. A curve has a bounded number of points,
so that a tick costs about the same late in a long run as early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cfexplain.errors import DataError
from cfexplain.files import read_json, read_json_lines
from cfexplain.reporting.console import as_clock
from cfexplain.reporting.html import data_uri, write_page
from cfexplain.runs.lookup import reason_of
from cfexplain.types import Tick

FILE = "live.html"
MAX_POINTS = 240  # of a curve
REFRESH_SECONDS = 10
NO_VALUES = ("stage", "step", "num_steps")  # of a line of history.jsonl
WIDTH, HEIGHT, EDGE = 240, 110, 4  # of a curve, in SVG units


class LivePage:
    """A watcher (reporting/console.py) that keeps live.html up to date. folder: of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = read_json(folder / "run.json")
        self.ticks: dict[str, list[Mapping[str, Any]]] = {}  # by stage
        self.picture_file = newest_picture(folder)

    def begin(self, ticks: Sequence[Mapping[str, Any]], stage: str, step: int) -> None:
        self.ticks = by_stage(ticks)
        write_live(self.folder, self.record, self.ticks, self.picture_file)

    def tick(self, tick: Tick, eta_seconds: float | None) -> None:
        self.ticks.setdefault(tick.stage, []).append(tick.line)
        write_live(self.folder, self.record, self.ticks, self.picture_file, tick.images_per_second, eta_seconds)

    def picture(self, file: Path, step: int) -> None:
        self.picture_file = file  # seen at the next tick, or at the end


def finish_live(folder: Path) -> None:
    """The page as the run has left it: it loads itself no more. Nothing where there is no page."""
    if not (folder / FILE).exists():
        return
    try:
        ticks = by_stage(read_json_lines(folder / "history.jsonl"))
    except DataError:  # the run has said so
        ticks = {}
    write_live(folder, read_json(folder / "run.json"), ticks, newest_picture(folder))


def write_live(
    folder: Path, record: Mapping[str, Any], ticks: Mapping[str, Sequence[Mapping[str, Any]]], picture: Path | None,
    images_per_second: float | None = None, eta_seconds: float | None = None,
) -> None:
    """record: of run.json; ticks: lines of history.jsonl by their stage, the last says where the run stands."""
    status, newest = record["status"], list(ticks.values())[-1][-1] if ticks else None
    facts: dict[str, object] = {"status": status}
    if status not in ("running", "done"):
        facts["reason"] = reason_of(folder, record)
    if newest is not None:
        facts["step"] = f"{newest['step']} of {newest['num_steps']} ({newest['stage']})"
        if status == "running":
            facts["time left in this stage"] = as_clock(eta_seconds)
        if images_per_second is not None:
            facts["images a second"] = f"{images_per_second:.0f}"
    facts |= {"device": record["device"], "command": " ".join(record["argv"]), "folder": folder,
              "written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"}
    step = "" if newest is None else f", {newest['step']}/{newest['num_steps']}"
    write_page(
        folder / FILE, "live.html", title=f"{status}{step}: {folder.name}", facts=facts, newest=newest,
        refresh_seconds=REFRESH_SECONDS if status == "running" else None,
        picture=data_uri(picture.read_bytes()) if picture else None, picture_name=picture.name if picture else "",
        stages=[(stage, _curves(thinned(lines))) for stage, lines in reversed(ticks.items())],  # the newest first
        width=WIDTH, height=HEIGHT, edge=EDGE,
    )


def newest_picture(folder: Path) -> Path | None:
    """The final one, else the one of the latest step."""
    final = folder / "images" / "counterfactuals.png"
    return final if final.exists() else max((folder / "images").glob("counterfactuals-*.png"), default=None)


def by_stage(ticks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for tick in ticks:
        stages.setdefault(tick["stage"], []).append(tick)
    return stages


def thinned(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """At most MAX_POINTS of them in equal steps, the newest among them."""
    return lines[:: -max(1, math.ceil(len(lines) / MAX_POINTS))][::-1]


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    names = dict.fromkeys(name for line in lines for name in line if name not in NO_VALUES)
    points = {
        name: [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        for name in names
    }
    return [_curve(name, found, lines[-1]["num_steps"]) for name, found in points.items() if found]


def _curve(name: str, points: Sequence[tuple[int, float]], num_steps: int) -> dict[str, str]:
    """The steps from left to right up to `num_steps`, the values between their least and their largest."""
    values = [value for _, value in points if math.isfinite(value)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    places = " ".join(
        f"{EDGE + step / num_steps * (WIDTH - 2 * EDGE):.1f},"
        f"{HEIGHT - EDGE - (value - low) / span * (HEIGHT - 2 * EDGE):.1f}"
        for step, value in points
    )
    label = f"{name}: {values[-1]:.4g} at step {points[-1][0]}, between {low:.4g} and {high:.4g}"
    return {"name": name, "label": label, "points": places, "newest": f"{values[-1]:.4g}", "low": f"{low:.4g}",
            "high": f"{high:.4g}"}
