"""What a run says while it goes on: a rich progress bar on a terminal, otherwise one flushed line a tick.

Everything said also goes to the log (cfexplain.log), every tick to history.jsonl. The history holds what the run
computed and no clock readings: a run that was killed and continued ends with the same bytes as one that was not.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from cfexplain.files import append_json_line, read_json_lines, write_json_lines
from cfexplain.lazy import torch
from cfexplain.types import Tick

log = logging.getLogger("cfexplain")


def complain(message: str) -> None:
    """A user's mistake or a failure: one line on stderr."""
    print(f"cfexplain: {' '.join(message.split())}", file=sys.stderr, flush=True)


def forget_reader() -> None:
    """The reader of stdout has left (`| head`): let what is still buffered go nowhere, so that Python ends quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Watcher(Protocol):
    """What else shows a training while it goes on: live.html, TensorBoard."""

    def begin(self, ticks: Sequence[Mapping[str, Any]], stage: str, step: int) -> None:
        """A stage begins, or goes on, at `step`; ticks: the lines of history.jsonl that stand before it."""

    def tick(self, tick: Tick, eta_seconds: float | None) -> None:
        """The next line of the history."""

    def picture(self, file: Path, step: int) -> None:
        """A PNG that was drawn at `step` of the generator."""


class Reporter:
    """Takes ticks and sentences. `stream` is stderr under --json, so that stdout holds JSON alone."""

    def __init__(self, stream: TextIO, history: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.history = history
        self.watchers: list[Watcher] = []
        self._clock = clock
        self._stage = ""
        self._stage_started = (0.0, 0)  # time and step of the stage's first tick
        self._progress: Any = None  # rich's Progress, once there is a bar
        self._task: Any = None

    def __call__(self, tick: Tick) -> None:
        if tick.stage != self._stage:
            self.end_stage()
            self._stage, self._stage_started = tick.stage, (self._clock(), tick.step)  # not announced: no ETA yet
        if self.history is not None:
            append_json_line(self.history, tick.line)
        for watcher in self.watchers:
            watcher.tick(tick, self.eta_seconds(tick))
        text = self._as_text(tick)
        log.info(text)
        if self.stream.isatty():
            self._show_bar(tick)
        else:
            print(text, file=self.stream, flush=True)

    def say(self, text: str) -> None:
        log.info(text)
        self.end_stage()
        print(text, file=self.stream, flush=True)

    def begin_stage(self, stage: str, step: int) -> None:
        """Start the clock of a stage at `step`, and forget its later ticks: a continued run takes those steps again."""
        self.end_stage()
        self._stage, self._stage_started = stage, (self._clock(), step)
        kept = []
        if self.history is not None and self.history.exists():
            ticks = read_json_lines(self.history)
            kept = [tick for tick in ticks if tick["stage"] != stage or tick["step"] <= step]
            write_json_lines(self.history, kept)
        for watcher in self.watchers:
            watcher.begin(kept, stage, step)

    def picture(self, file: Path, step: int) -> None:
        for watcher in self.watchers:
            watcher.picture(file, step)

    def end_stage(self) -> None:
        """Leave the finished bar on the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._stage = ""

    def eta_seconds(self, tick: Tick) -> float | None:
        started, first_step = self._stage_started
        done = tick.step - first_step
        if done <= 0:
            return None
        return (self._clock() - started) / done * (tick.num_steps - tick.step)

    def _as_text(self, tick: Tick) -> str:
        eta = self.eta_seconds(tick)
        return " ".join([
            f"[{tick.stage}] step {tick.step}/{tick.num_steps}",
            *(f"{name} {value:.4g}" for name, value in tick.values.items()),
            f"| {tick.images_per_second:.0f} images/s, {memory_mb():.0f} MB, ETA {as_clock(eta)}",
        ])

    def _show_bar(self, tick: Tick) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if self._progress is None:
            columns = ("[bold]{task.description}", BarColumn(), "{task.completed:.0f}/{task.total:.0f}")
            self._progress = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[facts]}"), console=Console(file=self.stream)
            )
            self._task = self._progress.add_task(tick.stage, total=tick.num_steps, facts="")
            self._progress.start()
        values = " ".join(f"{name} {value:.3g}" for name, value in list(tick.values.items())[:1])  # a line is short
        facts = f"{values} | {tick.images_per_second:.0f} images/s, {memory_mb():.0f} MB"
        self._progress.update(self._task, completed=tick.step, facts=facts)  # type: ignore[arg-type]


def as_clock(seconds: float | None) -> str:
    """75 -> '1:15'; '-' where it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def memory_mb() -> float:
    """Memory in use: the GPU's once torch uses one, else this process's."""
    if _uses_gpu():
        return torch.cuda.memory_allocated() / 2**20
    try:
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError, ValueError):
        return peak_memory_mb()


def peak_memory_mb() -> float:
    """Largest memory so far, of the GPU once torch uses one, else of this process."""
    if _uses_gpu():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB on Linux


def _uses_gpu() -> bool:
    return "torch" in sys.modules and torch.cuda.is_available() and torch.cuda.is_initialized()
