"""Runs that lie on the disk: those that a path, a glob or `latest` names, what they wrote, and why one failed."""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfexplain.errors import DataError
from cfexplain.files import read_json, regular, write_text

LATEST = "latest.txt"
KINDS = {  # of what is read again of a run.json
    "command": str, "status": str | None, "argv": list[str] | None, "started": str | None, "host": str | None,
    "pid": int | None, "exit_code": int | None, "parents": list[str] | None, "warnings": list[str] | None,
    "attempts": list[dict] | None, "weights": dict[str, str] | None, "versions": dict | None, "shard": dict | None,
}
EMPTY = {"argv": list, "parents": list, "warnings": list, "attempts": list, "weights": dict}  # where it lacks them
GONE = "process {pid} is gone without a word: killed, or out of memory"


def find_run(run: str, output_root: Path, commands: tuple[str, ...]) -> Path:
    """The folder of a run given as a path or as `latest`; `commands`: which commands may have made it, best first."""
    remedy = "train one: cfexplain train"
    if run == "latest":
        latest = read_latest(output_root)
        found = [latest[command] for command in commands if command in latest]
        if not found:
            raise DataError(f"no run in {output_root / LATEST}; {remedy}")
        # An explain run counts as the newest only while it explains the newest train run.
        newest = found[0]
        if len(found) > 1 and found[1].resolve() not in [parent.resolve() for parent in parent_runs(newest)]:
            newest = found[1]
        return newest
    folder = Path(run).expanduser()
    if not os.path.isfile(folder / "run.json"):  # which, unlike Path.is_file, takes any name
        raise DataError(f"no run at {run}, or it may not be read; {remedy}")
    made_by = read_record(folder)["command"]
    if made_by not in commands:
        raise DataError(f"{run} is a run of '{made_by}', wanted one of {' or '.join(commands)}; {remedy}")
    return folder


def parent_runs(folder: Path) -> list[Path]:
    """The runs that a run builds on, as its run.json names them: relative to its own folder."""
    return [Path(os.path.relpath(folder / parent)) for parent in record_of(folder).get("parents", [])]


def read_latest(output_root: Path) -> dict[str, Path]:
    """Newest finished run of each command; found below `output_root` too where that has moved."""
    found = {}
    for command, text in _latest_lines(output_root).items():
        folder = Path(text)
        found[command] = folder if folder.is_dir() else output_root.joinpath(*folder.parts[-3:])
    return found


def point_latest(output_root: Path, command: str, folder: Path) -> None:
    """Note the newest finished run of a command in outputs/latest.txt."""
    output_root.mkdir(parents=True, exist_ok=True)
    lines = {**_latest_lines(output_root), command: str(folder)}
    write_text(output_root / LATEST, "".join(f"{name} {path}\n" for name, path in sorted(lines.items())))


def _latest_lines(output_root: Path) -> dict[str, str]:
    file = output_root / LATEST
    if not file.exists():
        return {}
    try:
        lines = regular(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); delete it and name the run") from error
    return dict(line.split(" ", 1) for line in lines if " " in line)


def holds_runs(text: str) -> bool:
    """Whether a path is a glob, or a folder that is no run itself: it stands for the runs in it."""
    text = os.path.expanduser(text)
    return glob.has_magic(text) or os.path.isdir(text) and not _is_run(Path(text))


def run_folders(text: str) -> list[Path]:
    """The runs that a path or a glob names, counted as people count: 2 before 10.

    A folder that is no run stands for those below it. A run that died before it could write run.json is one too.
    """
    found: set[Path] = set()
    for folder in map(Path, glob.glob(os.path.expanduser(text), recursive=True)):
        if _is_run(folder):
            found.add(folder)
        elif folder.is_dir():
            found.update(Path(parent) for parent, _, _ in os.walk(folder) if _is_run(Path(parent)))
    return sorted(found, key=lambda folder: _natural(str(folder)))


def record_of(folder: Path) -> dict[str, Any]:
    """Its run.json; empty where it has none that can be read, which is itself a finding."""
    try:
        return read_record(folder)
    except DataError:
        return {}


def read_record(folder: Path) -> dict[str, Any]:
    """Its run.json, with what it lacks of EMPTY; DataError where that is missing or damaged."""
    record = read_json(folder / "run.json", KINDS)
    return record | {key: kind() for key, kind in EMPTY.items() if record.get(key) is None}


def metrics_of(folder: Path) -> dict[str, float]:
    """The numbers of its metrics.json."""
    return {
        key: float(value) for key, value in object_in(folder / "metrics.json").items()
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
    return any(os.path.isfile(folder / name) for name in ("run.json", ".hydra/config.yaml"))


def object_in(path: Path) -> dict[str, Any]:
    """Of a JSON file; empty where it is missing or damaged."""
    try:
        return read_json(path)
    except DataError:
        return {}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
