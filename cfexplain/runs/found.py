"""Runs that lie on the disk: those that a path or a glob names, and why one of them failed."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GLOB = "*?["
GONE = "process {pid} is gone without a word: killed, or out of memory"


def holds_runs(text: str) -> bool:
    """Whether a path is a glob, or a folder that is no run itself: it stands for the runs in it."""
    return any(sign in text for sign in GLOB) or Path(text).is_dir() and not _is_run(Path(text))


def run_folders(text: str) -> list[Path]:
    """The runs that a path or a glob names, counted as people count: 2 before 10.

    A folder that is no run stands for those below it. A run that died before it could write run.json is one too.
    """
    found: set[Path] = set()
    for folder in map(Path, glob.glob(text, recursive=True)):
        if _is_run(folder):
            found.add(folder)
        elif folder.is_dir():
            found.update(Path(parent) for parent, _, _ in os.walk(folder) if _is_run(Path(parent)))
    return sorted(found, key=lambda folder: _natural(str(folder)))


def record_of(folder: Path) -> dict[str, Any]:
    """Its run.json; empty where it has none that can be read, which is itself a finding."""
    return _object(folder / "run.json")


def metrics_of(folder: Path) -> dict[str, float]:
    """The numbers of its metrics.json."""
    return {
        key: float(value) for key, value in _object(folder / "metrics.json").items()
        if key != "schema_version" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def status_of(record: Mapping[str, Any]) -> str:
    """As the run wrote it; `died` for one that still claims to run on this machine and does not."""
    status = record.get("status", "died")
    if status == "running" and record.get("host") == socket.gethostname() and not _is_alive(record.get("pid", 0)):
        return "died"
    return status


def reason_of(folder: Path, record: Mapping[str, Any]) -> str:
    """Why a run is not done, in one line: what it logged last as an error."""
    if record.get("reason"):
        return " ".join(str(record["reason"]).split())
    if status_of(record) == "died":
        return GONE.format(pid=record.get("pid", ""))
    try:
        lines = (folder / "cfexplain.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no log"
    errors = [index for index, line in enumerate(lines) if "][ERROR] " in line]
    if not errors:
        return ""
    message = lines[errors[-1]].split("][ERROR] ", 1)[1]
    # A traceback follows the message; its last line names the exception.
    after = [line for line in lines[errors[-1] + 1:] if not line.startswith((" ", "[", "Traceback"))]
    ends = [line for line in after if line]
    return ends[-1] if message == "failed" and ends else message


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or (folder / ".hydra" / "config.yaml").is_file()


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
