"""The run folder: made once, never shared by two jobs, and the record (run.json) of what happened in it."""

from __future__ import annotations

import os
import platform
import re
import secrets
import socket
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cfexplain.errors import ConfigError, DataError
from cfexplain.reporting.files import read_json, write_json, write_text
from cfexplain.version import VERSION

LATEST = "latest.txt"
PACKAGES = ("torch", "torchvision", "torchmetrics", "numpy", "pillow", "hydra-core", "omegaconf")


def stamped_name(now: datetime | None = None) -> str:
    """'20261124T233000Z-a1b2c3': sorts by time, differs between runs of the same second."""
    now = now or datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def safe_name(name: str) -> str:
    """Only [a-z0-9._-]: nothing that a shell, Hydra or Windows reads as more than a name."""
    return re.sub(r"[^a-z0-9._-]+", "_", name.lower()).strip("._") or "run"


def make_run_folder(parent: Path, prefix: str = "") -> Path:
    """A new folder of its own below `parent`; another name where two runs chose the same."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / f"{prefix}{stamped_name()}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(f"cannot make a run folder in {parent}: {error.strerror}; set output_root=") from error


def claim_run_folder(folder: Path) -> None:
    """Make `folder`, or take it over from a run that has ended; refuse one that is being written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be made: {error.strerror}") from error
    if not (folder / "run.json").exists():
        return
    record = read_json(folder / "run.json")
    if record.get("status") == "running" and record.get("host") == socket.gethostname() and _is_alive(record["pid"]):
        raise ConfigError(f"run_dir={folder} is being written by process {record['pid']}; give another run_dir")


@dataclass
class RunFolder:
    """A run's folder and its record. Every change of the record is written at once."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> Path:
        return self._made("images")

    @property
    def checkpoints(self) -> Path:
        return self._made("checkpoints")

    def begin(self, command: str, argv: list[str], config_yaml: str, seed: int | None) -> None:
        write_text(self.path / "config.yaml", config_yaml)
        self.record = {
            "status": "running",
            "exit_code": None,
            "command": command,
            "argv": argv,
            "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "seed": seed,
            "device": None,
            "parents": [],
            "versions": versions(),
            "git_commit": git_commit(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "timings_seconds": {},
            "peak_memory_mb": None,
            "warnings": [],
        }
        self.update()

    def update(self, **changes: Any) -> None:
        self.record.update(changes)
        write_json(self.path / "run.json", self.record)

    def write_parents(self, parents: list[Path]) -> None:
        """Relative to this folder, so that outputs/ may be moved as a whole."""
        self.update(parents=[os.path.relpath(parent, self.path) for parent in parents])

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        write_json(self.path / "metrics.json", metrics)

    def _made(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder


def point_latest(output_root: Path, command: str, folder: Path) -> None:
    """Note the newest finished run of a command in outputs/latest.txt."""
    output_root.mkdir(parents=True, exist_ok=True)
    lines = {**_latest_lines(output_root), command: str(folder)}
    write_text(output_root / LATEST, "".join(f"{name} {path}\n" for name, path in sorted(lines.items())))


def read_latest(output_root: Path) -> dict[str, Path]:
    """Newest finished run of each command; found below `output_root` too where that has moved."""
    found = {}
    for command, text in _latest_lines(output_root).items():
        folder = Path(text)
        found[command] = folder if folder.is_dir() else output_root.joinpath(*folder.parts[-3:])
    return found


def parent_runs(folder: Path) -> list[Path]:
    """The runs that a run builds on, as its run.json names them: relative to its own folder."""
    return [Path(os.path.relpath(folder / parent)) for parent in read_json(folder / "run.json").get("parents", [])]


def _latest_lines(output_root: Path) -> dict[str, str]:
    file = output_root / LATEST
    if not file.exists():
        return {}
    return dict(line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines() if " " in line)


def find_run(run: str, output_root: Path, commands: tuple[str, ...]) -> Path:
    """The folder of a run given as a path or as `latest`; `commands`: which commands may have made it, best first."""
    todo = "train one: cfexplain train"
    if run == "latest":
        latest = read_latest(output_root)
        found = [latest[command] for command in commands if command in latest]
        if not found:
            raise DataError(f"no run in {output_root / LATEST}; {todo}")
        # An explain run counts as the newest only while it explains the newest train run.
        newest = found[0]
        if len(found) > 1 and found[1].resolve() not in [parent.resolve() for parent in parent_runs(newest)]:
            newest = found[1]
        return newest
    folder = Path(run)
    if not (folder / "run.json").is_file():
        raise DataError(f"no run at {run}; {todo}")
    made_by = read_json(folder / "run.json").get("command")
    if made_by not in commands:
        raise DataError(f"{run} is a run of '{made_by}', wanted one of {' or '.join(commands)}; {todo}")
    return folder


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"cfexplain": VERSION, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """Commit of the checkout that this code lies in, '+changes' where it differs; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
