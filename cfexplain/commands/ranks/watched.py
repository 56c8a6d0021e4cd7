"""Starting the ranks of a training and watching them.

The process that was asked for the run computes nothing and keeps its record, so that it can say which rank died of
what. It passes a stop on, kills what is left when one rank has failed, and the ranks end when it is killed itself.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cfexplain
from cfexplain.commands.base import Job
from cfexplain.engine import stopping
from cfexplain.errors import CfexplainError, Interrupted
from cfexplain.files import read_json, SCHEMA_VERSION
from cfexplain.runs.folder import lock_descriptor

log = logging.getLogger("cfexplain")
POLL_SECONDS = 0.05
SECONDS_TO_FOLLOW, SECONDS_TO_SAVE = 2.0, 60.0  # until the others are killed: after a failure, after a stop
STOPS = (Interrupted.__name__, stopping.StopRequested.__name__)


class RankFailed(CfexplainError):
    """What one rank died of."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_ranks(job: Job, num_ranks: int) -> dict[str, float | str]:
    """The metrics of a run that `num_ranks` new processes do; RankFailed says which of them died of what."""
    folder = job.folder.path
    try:
        with tempfile.TemporaryDirectory(prefix="cfexplain-") as meeting:
            with _started(folder, Path(meeting), num_ranks) as ranks:
                _wait_for(ranks, folder)
    finally:
        job.folder.record.update(read_json(folder / "run.json"))  # rank 0 has written to it
    metrics = read_json(folder / "metrics.json")
    assert metrics.pop("schema_version") == SCHEMA_VERSION, metrics
    return metrics


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """line: to the rank, which ends when this side of it is closed, and says at its end what it died of."""

    number: int
    process: subprocess.Popen
    line: socket.socket
    errors: Path

    def last_words(self) -> dict[str, Any]:
        """kind, message, exit_code, traceback; empty where it had no time to say anything."""
        self.line.setblocking(False)
        said = b""
        try:
            while part := self.line.recv(65536):
                said += part
            return json.loads(said)
        except (BlockingIOError, ValueError):
            return {}


@contextmanager
def _started(folder: Path, meeting: Path, num_ranks: int) -> Iterator[list[_Rank]]:
    """meeting: a folder for what the ranks need to find each other. At the end none is left."""
    ranks: list[_Rank] = []
    try:
        for number in range(num_ranks):
            ranks.append(_start(number, num_ranks, folder, meeting))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
        for rank in ranks:
            rank.process.wait()
            rank.line.close()


def _start(number: int, num_ranks: int, folder: Path, meeting: Path) -> _Rank:
    """A rank has a session of its own: Ctrl-C reaches this process, which passes it on. Only rank 0 is heard."""
    ours, theirs = socket.socketpair()
    errors = meeting / f"rank-{number}.txt"
    place = {"rank": number, "size": num_ranks, "local_rank": number, "local_size": num_ranks,
             "init_method": f"file://{meeting}/ranks"}
    # -P: a folder named cfexplain in the working directory is not ours.
    command = [sys.executable, "-P", "-m", "cfexplain.commands.ranks.rank", str(folder), str(theirs.fileno())]
    held = (theirs.fileno(), lock_descriptor(folder))  # a rank that outlives this process holds the folder still
    with theirs, errors.open("wb") as file:
        process = subprocess.Popen(
            [*command, json.dumps(place)], env=_environment(num_ranks), pass_fds=held, stdin=subprocess.DEVNULL,
            stdout=None if number == 0 else subprocess.DEVNULL, stderr=None if number == 0 else file,
            start_new_session=True,
        )
    return _Rank(number=number, process=process, line=ours, errors=errors)


def _environment(num_ranks: int) -> dict[str, str]:
    package = Path(cfexplain.__file__).resolve().parent.parent
    is_installed = package.name in ("site-packages", "dist-packages")  # found anyway, and to stand behind Python's own
    paths = [*([] if is_installed else [str(package)]), *filter(None, [os.environ.get("PYTHONPATH")])]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // num_ranks)),  # the threads of all ranks would wait for each other
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # gloo tells of each connection
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),  # a host's own name may lead nowhere
    }
    return {**wanted, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _wait_for(ranks: list[_Rank], folder: Path) -> None:
    """Until all have ended well. A stop is passed on; the first failure ends the run."""
    passed_on: str | None = None
    deadline = math.inf
    with stopping.between_steps():
        while True:
            codes = [rank.process.poll() for rank in ranks]
            if None not in codes or time.monotonic() > deadline:
                break
            if passed_on is None and (passed_on := stopping.requested()) is not None:
                for rank in ranks:
                    rank.process.send_signal(signal.Signals[passed_on])
            if deadline == math.inf and any(codes):
                deadline = time.monotonic() + (SECONDS_TO_FOLLOW if passed_on is None else SECONDS_TO_SAVE)
            time.sleep(POLL_SECONDS)
        if any(codes) or None in codes:
            raise _reason(ranks, codes, passed_on, folder)


def _reason(
    ranks: list[_Rank], codes: list[int | None], passed_on: str | None, folder: Path
) -> CfexplainError | stopping.StopRequested | BrokenPipeError:
    """codes: of the ranks' ends so far; None for one that has not ended, -n for one that signal n killed."""
    words = [rank.last_words() for rank in ranks]
    for rank, said in zip(ranks, words, strict=True):
        if text := said.get("traceback", "") or rank.errors.read_text(errors="replace")[-4000:]:
            log.error("rank %d: %s", rank.number, text)
    kinds = [said.get("kind") for said in words]
    if kinds[0] == "BrokenPipeError":
        return BrokenPipeError()
    killed = None if passed_on is None else -signal.Signals[passed_on].value  # a rank that was not ready for it yet
    stopped = [kind in STOPS or (code is not None and code == killed) for kind, code in zip(kinds, codes, strict=True)]
    if stopped[0] or (kinds[0] == "PeerLost" and any(stopped)):
        return Interrupted(words[0]["message"]) if kinds[0] == "Interrupted" else stopping.StopRequested(passed_on)
    failed = [number for number, code in enumerate(codes) if code]
    silent = [number for number in failed if not words[number]]
    first = next(iter([*silent, *(number for number in failed if kinds[number] != "PeerLost"), *failed]), 0)
    if first not in silent and first in failed:
        place = "" if first == 0 else f"rank {first}: "
        return RankFailed(place + words[first]["message"], words[first]["exit_code"])
    return RankFailed(
        f"rank {first} of {len(ranks)} {_ended(codes[first])}, and the run with it; its last checkpoint is whole: the "
        f"same command with run_dir={folder} goes on from there", 1,
    )


def _ended(code: int | None) -> str:
    if code is None:
        return "did not stop"
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
