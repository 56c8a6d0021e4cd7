"""live.html in the folder of a training run: curves, the newest picture, status and ETA.

It is written again at each tick and loads itself again while the run goes on. A curve has a bounded number of points,
so that a tick costs about the same late in a long run as early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; images_per_second and eta_seconds are None where they are not known."""

    stage: str
    step: int
    num_steps: int
    images_per_second: float | None = None
    eta_seconds: float | None = None


class LivePage:
    """A watcher (reporting/console.py) that keeps live.html up to date. folder: of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = read_json(folder / "run.json")
        self.ticks: dict[str, list[Mapping[str, Any]]] = {}  # by stage
        self.progress: Progress | None = None
        self.picture_file = newest_picture(folder)

    def begin(self, ticks: Sequence[Mapping[str, Any]], stage: str, step: int) -> None:
        self.ticks = by_stage(ticks)
        self._write()

    def tick(self, tick: Tick, eta_seconds: float | None) -> None:
        self.progress = Progress(
            stage=tick.stage, step=tick.step, num_steps=tick.num_steps, images_per_second=tick.images_per_second,
            eta_seconds=eta_seconds,
        )
        line = {"stage": tick.stage, "step": tick.step, "num_steps": tick.num_steps, **tick.values}
        self.ticks.setdefault(tick.stage, []).append(line)
        self._write()

    def picture(self, file: Path, step: int) -> None:
        self.picture_file = file  # seen at the next tick, or at the end

    def _write(self) -> None:
        write_live(self.folder, self.record, self.ticks, self.progress, self.picture_file)


def finish_live(folder: Path) -> None:
    """The page as the run has left it: it loads itself no more. Nothing where there is no page."""
    if not (folder / FILE).exists():
        return
    try:
        ticks = by_stage(read_json_lines(folder / "history.jsonl"))
    except DataError:  # the run has said so
        ticks = {}
    newest = [lines[-1] for lines in ticks.values() if lines][-1:]
    progress = None
    if newest:
        progress = Progress(stage=newest[0]["stage"], step=newest[0]["step"], num_steps=newest[0]["num_steps"])
    write_live(folder, read_json(folder / "run.json"), ticks, progress, newest_picture(folder))


def write_live(
    folder: Path, record: Mapping[str, Any], ticks: Mapping[str, Sequence[Mapping[str, Any]]],
    progress: Progress | None, picture: Path | None,
) -> None:
    """record: of run.json; ticks: lines of history.jsonl by their stage."""
    is_running = record["status"] == "running"
    step = "" if progress is None else f", {progress.step}/{progress.num_steps}"
    title = f"{record['status']}{step}: {folder.name}"
    write_page(
        folder / FILE, "live.html", title=title, facts=_facts(folder, record, progress), progress=progress,
        refresh_seconds=REFRESH_SECONDS if is_running else None,
        picture=data_uri(picture.read_bytes()) if picture else None, picture_name=picture.name if picture else "",
        stages=[(stage, _curves(thinned(lines))) for stage, lines in reversed(ticks.items())],  # the newest first
        width=WIDTH, height=HEIGHT, edge=EDGE,
    )


def _facts(folder: Path, record: Mapping[str, Any], progress: Progress | None) -> dict[str, object]:
    status = record["status"]
    facts: dict[str, object] = {"status": status}
    if status not in ("running", "done"):
        facts["reason"] = reason_of(folder, record)
    if progress is not None:
        facts["step"] = f"{progress.step} of {progress.num_steps} ({progress.stage})"
        if status == "running":
            facts["time left in this stage"] = as_clock(progress.eta_seconds)
        if progress.images_per_second is not None:
            facts["images a second"] = f"{progress.images_per_second:.0f}"
    facts |= {"device": record["device"], "command": " ".join(record["argv"]), "folder": folder}
    return facts | {"written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"}


def newest_picture(folder: Path) -> Path | None:
    """The final one, else the one of the latest step."""
    final = folder / "images" / "counterfactuals.png"
    return final if final.exists() else max((folder / "images").glob("counterfactuals-*.png"), default=None)


def by_stage(ticks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Lines of history.jsonl by their stage."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for tick in ticks:
        stages.setdefault(tick["stage"], []).append(tick)
    return stages


def thinned(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """At most MAX_POINTS of them in equal steps, the newest among them."""
    return lines[:: -max(1, math.ceil(len(lines) / MAX_POINTS))][::-1]


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One curve a loss."""
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
