"""The folder that a run writes to: made once, held by one process, with a record (run.json) of what happened in it."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, UTC
from pathlib import Path
from typing import Any, TextIO

from cfexplain.errors import ConfigError, DiskFull
from cfexplain.files import NoLocks, open_locked, remove_leftovers, write_json, write_text
from cfexplain.runs.lookup import object_in, record_of
from cfexplain.version import installed, VERSION

LOCK = ".lock"
HOLDER = r"(process \d+ on .*\n)?"  # content of the lock
BEGINNING = {LOCK, ".hydra", "cfexplain.log"}  # what a run has before its record
RECORDS = {  # file -> keys of those that were written here
    "run.json": {"schema_version", "command", "status", "argv"}, "sweep.json": {"schema_version", "command"},
}
MIN_FREE_MB = 8.0  # for a log, records and pictures; a training adds its checkpoints
PACKAGES = ("torch", "torchvision", "torchmetrics", "numpy", "pillow", "hydra-core", "omegaconf", "rich",
            "hydra-joblib-launcher", "hydra-submitit-launcher")
_held: dict[Path, TextIO] = {}  # of this process; open files, since closing one gives its lock back


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
        check_free_space(parent, MIN_FREE_MB)
        while True:
            folder = parent / f"{prefix}{stamped_name()}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            hold(folder)
            return folder
    except OSError as error:
        raise ConfigError(f"cannot make a run folder in {parent}: {error.strerror}; set output_root=") from error


def claim_run_folder(folder: Path) -> Path:
    """Make `folder` or take it over, and hold it for this process.

    ConfigError where another one is writing to it, or it is somebody's own: then nothing in it is touched.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_empty_or_run(folder):
            raise ConfigError(
                f"run_dir={folder} is not empty and no run of cfexplain; give a new folder, or that of a run"
            )
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ConfigError(f"run_dir={folder} cannot be written to: {os.strerror(errno.EACCES)}")
    check_free_space(folder, MIN_FREE_MB)
    hold(folder)
    return folder


def _is_empty_or_run(folder: Path) -> bool:
    """Whether all in it is what a run or a sweep begins with, or its record says that it is one."""
    names = {path.name for path in folder.iterdir()}
    if names <= BEGINNING or BEGINNING <= names:  # the latter: killed before it had a record
        return LOCK not in names or bool(re.fullmatch(HOLDER, (folder / LOCK).read_text("utf-8", errors="replace")))
    return any(marks <= object_in(folder / name).keys() for name, marks in RECORDS.items())


def hold(folder: Path) -> None:
    """Keep other processes from writing to the folder, until this one ends or lets go; holding it already is fine."""
    key = folder.resolve()
    if key in _held:
        return
    try:
        file = open_locked(folder / LOCK, wait=False)
    except BlockingIOError as error:
        owner = (folder / LOCK).read_text(encoding="utf-8").strip() or "another process"
        raise ConfigError(f"run_dir={folder} is being written by {owner}; give another run_dir") from error
    except NoLocks as error:
        raise ConfigError(f"run_dir={folder} cannot be locked ({error.strerror}); give one on a local disk") from error
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be written to: {error.strerror}") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[key] = file


def lock_descriptor(folder: Path) -> int:
    """Of the lock's open file: a process that inherits it holds the folder too, until it ends."""
    return _held[folder.resolve()].fileno()


def let_go(folder: Path) -> None:
    """Give the folder back, where this process holds it."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        file.close()


def check_free_space(folder: Path, wanted_mb: float) -> None:
    """DiskFull, before anything is computed, where the folder's disk has less left than a run will write."""
    free_mb = shutil.disk_usage(folder).free / 2**20
    if free_mb < wanted_mb:
        raise DiskFull(
            f"{folder} lies on a disk with {free_mb:.0f} MB left, and this run needs about {wanted_mb:.0f} MB; "
            "free some, or choose another place with output_root= or run_dir="
        )


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

    def begin(self, command: str, argv: list[str], config_yaml: str) -> None:
        """Start the record. What a run that is continued noted before stays: its warnings, and each attempt."""
        for folder in (self.path, self.path / "checkpoints", self.path / "images"):
            remove_leftovers(folder)
        before = record_of(self.path)  # of the attempt that is continued
        write_text(self.path / "config.yaml", config_yaml)
        self.record = {
            "status": "running",
            "exit_code": None,
            "command": command,
            "argv": argv,
            "config_sha256": hashlib.sha256(config_yaml.encode("utf-8")).hexdigest(),  # of config.yaml as it is written
            "started": _now(),
            "status_changes": [],
            "seed": None,
            "device": None,
            "parents": [],
            "versions": {"cfexplain": VERSION, "python": platform.python_version(), **{
                package: installed(package) for package in PACKAGES
            }},
            **git_state(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "timings_seconds": {},
            "peak_memory_mb": None,
            "weights": before.get("weights", {}),
            "warnings": before.get("warnings", []),
            "attempts": [*before.get("attempts", []), *([_attempt(before)] if before else [])],
        }
        self.update()

    def update(self, **changes: Any) -> None:
        self.record.update(changes)
        noted = self.record["status_changes"]
        if not noted or noted[-1]["status"] != self.record["status"]:
            noted.append({"status": self.record["status"], "at": _now()})
        write_json(self.path / "run.json", self.record)

    def note_weights(self, name: str, sha256: str) -> None:
        """Tie a file of checkpoints/ to this run."""
        self.update(weights={**self.record["weights"], name: sha256})

    def write_parents(self, parents: Iterable[Path]) -> None:
        """Relative to this folder, so that outputs/ may be moved as a whole."""
        self.update(parents=[os.path.relpath(parent, self.path) for parent in parents])

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        write_json(self.path / "metrics.json", metrics)

    def _made(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder


def _attempt(record: dict[str, Any]) -> dict[str, Any]:
    """What run.json keeps of an earlier attempt. One that never wrote its end was killed."""
    status = "killed" if record.get("status") == "running" else record.get("status")
    names = ("started", "status_changes", "exit_code", "host", "pid", "argv", "versions", "git_commit",
             "git_is_clean", "device", "timings_seconds", "peak_memory_mb")
    return {"status": status, **{name: record.get(name) for name in names}}


def git_state() -> dict[str, str | bool | None]:
    """Commit of the checkout that this code lies in, and whether it held just that; None for an installed package."""
    root, commit, is_clean = Path(__file__).resolve().parents[2], None, None
    if (root / ".git").exists():
        try:
            commit = _git(root, "rev-parse", "HEAD")
            # A new, untracked module is another program too; outputs and data are ignored by .gitignore.
            is_clean = not _git(root, "status", "--porcelain", "--", "cfexplain", "conf")
        except (OSError, subprocess.SubprocessError):
            pass
    return {"git_commit": commit, "git_is_clean": is_clean}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
