"""What a command is: a typed config, a run in a folder of its own, and a dry run, which says what that would do."""

from __future__ import annotations

import importlib
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from cfexplain.checks import check_at_least
from cfexplain.engine.runtime import Device, device_name, Runtime, start_torch
from cfexplain.errors import CfexplainWarning
from cfexplain.lazy import torch
from cfexplain.reporting.console import Reporter
from cfexplain.runs.folder import RunFolder
from cfexplain.runs.lookup import record_of
from cfexplain.types import Tick

ROOT_KEYS = {"dataset": "data_root", "exposure": "exposure_root"}  # group of a run -> key of the commands that open it
WITHOUT_DIGEST = "{}: its run.json holds no digest of its weights, as of earlier versions; they are taken as they are"


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """The values that all commands have."""

    runtime: Runtime
    device: Device
    num_grid_images: int
    output_root: str
    run_dir: str | None
    cache_dir: str
    dry_run: bool
    json: bool
    allow_custom_code: bool

    def __post_init__(self) -> None:
        check_at_least(self, num_grid_images=1)
        for name in ("output_root", "run_dir", "cache_dir"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.path.expanduser(value))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a command writes to."""

    folder: RunFolder
    reporter: Reporter

    def start(self, config: CommandConfig, seed: int, parents: Sequence[Path]) -> torch.device:
        """The device of a run that builds on others, its parents."""
        device = start_torch(config.runtime, config.device)
        self.folder.update(seed=seed, device=device_name(device))
        self.folder.write_parents(parents)
        for parent in parents:
            if (record := record_of(parent)).get("command") == "train" and not record.get("weights"):
                self.note(WITHOUT_DIGEST.format(parent))
        return device

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Note the part's duration in run.json."""
        started = time.monotonic()
        yield
        timings = self.folder.record["timings_seconds"] | {part: round(time.monotonic() - started, 3)}
        self.folder.update(timings_seconds=timings)

    def reporter_of(self, stage: str) -> Callable[[Tick], None]:
        """For a training whose ticks are to bear this name."""
        return lambda tick: self.reporter(replace(tick, stage=stage))

    def note(self, text: str | None) -> None:
        """A caveat, if there is one: said now, and kept in run.json beside the numbers."""
        if text is not None and text not in self.folder.record["warnings"]:
            self.folder.update(warnings=[*self.folder.record["warnings"], text])
            self.reporter.say(f"note: {text}")


class Command(ABC):
    """One command with the config that it was given; commands/<name>.py names its type COMMAND.

    config_type: conf/<name>.yaml, typed.
    headlines:   keys of metrics.json that are said at the end; a sweeper optimises the first.
    """

    config_type: ClassVar[type[CommandConfig]]
    headlines: ClassVar[tuple[str, ...]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def of(cls, config: Any) -> Command:
        """The command that a config asks for, where one name stands for several."""
        return cls(config)

    @property
    @abstractmethod
    def slug(self) -> str:
        """Name of the folder of its runs."""

    @abstractmethod
    def run(self, job: Job) -> dict[str, float | str]:
        """Do it; the metrics."""

    @abstractmethod
    def plan(self, device: torch.device) -> Iterator[str]:
        """What a dry run says, a line each: whatever can be wrong is found on the way."""

    def next_command(self, folder: Path, metrics: dict[str, float | str]) -> str:
        """What to type after a run in `folder`."""
        return f"open {folder / 'report.html'}"

    def dry_run(self, planned: Path) -> int:
        """Check all that a run needs and say it; `planned`: the folder that is not made."""
        reporter = Reporter(sys.stderr if self.config.json else sys.stdout, history=None)
        device = start_torch(self.config.runtime, self.config.device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CfexplainWarning)
            planned_lines = list(self.plan(device))
        notes = [f"note: {each.message}" for each in caught if issubclass(each.category, CfexplainWarning)]
        for line in (*planned_lines, *notes, f"device: {device_name(device)}", f"folder (not made): {planned}"):
            reporter.say(line)
        return 0


def command_named(name: str) -> type[Command]:
    return importlib.import_module(f"cfexplain.commands.{name}").COMMAND
