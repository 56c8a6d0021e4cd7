"""What a sweep adds to its jobs: which cells are done already, which GPU a job takes, how its workers stop."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from cfexplain import config as configs
from cfexplain.engine.stopping import SIGNALS, StopRequested
from cfexplain.errors import ConfigError
from cfexplain.files import NoLocks, open_locked, read_json, write_json
from cfexplain.runs.lookup import metrics_of, parent_runs, record_of, status_of

log = logging.getLogger("cfexplain")
SWEEP = "sweep.json"
MAY_DIFFER = (*configs.PLACES, "device", "tensorboard", "runtime.processes")
SECONDS_TO_SAVE = 60.0
_held: list[TextIO] = []  # locks of this process, open until it ends


def note_sweep(folder: Path, command: str, overrides: Sequence[str]) -> None:
    """Keep what a sweep runs; refuse a folder in which another one ran, for its cells have other numbers."""
    left_out = ("hydra", *(f"{key}=" for key in (*MAY_DIFFER, "stage")))
    kept = [text for text in overrides if not text.startswith(left_out)]
    if (folder / SWEEP).exists():
        noted = read_json(folder / SWEEP, {"command": str, "overrides": list[str]})
        before = [noted["command"], *noted["overrides"]]
        if before != [command, *kept]:
            missing = [word for word in before if word not in [command, *kept]]
            difference = f"that has {' '.join(missing)}" if missing else "with fewer values, or in another order"
            raise ConfigError(
                f"run_dir={folder} holds another sweep, {difference}; give another run_dir, or the same sweep"
            )
    write_json(folder / SWEEP, {"command": command, "overrides": kept})


def is_done(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a cell with this config has ended well in `folder`, after the runs that it builds on."""
    record = record_of(folder)
    if record.get("status") != "done" or config.get("run") == "latest":
        return False
    if any(record_of(parent).get("started", "") > record.get("started", "") for parent in parent_runs(folder)):
        return False  # trained again since
    return configs.first_difference(configs.read(folder / "config.yaml"), config, ignore=MAY_DIFFER) is None


def say_done_already(folder: Path, headline: str, is_json: bool) -> float:
    """A cell that need not run again: its result, as if it had."""
    metrics = metrics_of(folder)
    if is_json:
        result = {"status": "done", "exit_code": 0, "run": str(folder), "metrics": metrics, "done_before": True}
        print(json.dumps(result), flush=True)
    print(f"done already: {folder}", file=sys.stderr if is_json else sys.stdout, flush=True)
    return metrics.get(headline, math.nan)


@contextmanager
def stops_passed_on(sweep: Path) -> Iterator[None]:
    """For a launcher with workers of its own, which it kills when it is stopped: their runs save first.

    A second signal stops at once.
    """
    signals: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        signals.append(number)
        workers = _running_workers(sweep)
        for worker in workers if len(signals) == 1 else []:
            os.kill(worker, signal.SIGTERM)
        ends = time.monotonic() + SECONDS_TO_SAVE
        while len(signals) == 1 and _running_workers(sweep) and time.monotonic() < ends:
            time.sleep(0.1)
        raise StopRequested(signal.Signals(number).name)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _running_workers(sweep: Path) -> list[int]:
    records = [record_of(file.parent) for file in sweep.glob("*/run.json")]
    here = [record for record in records if record.get("host") == socket.gethostname()]
    running = [record.get("pid") for record in here if status_of(record) == "running"]
    return [pid for pid in running if pid not in (None, os.getpid())]


def share_gpus(sweep: Path, job_number: int) -> None:
    """One GPU a worker where several work on one machine; before CUDA starts."""
    gpu = take_gpu(sweep, visible_gpus(os.environ), job_number)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        log.info("CUDA_VISIBLE_DEVICES=%s", gpu)


def take_gpu(sweep: Path, gpus: Sequence[str], job_number: int) -> str | None:
    """The GPU of this process, kept until it ends; None where there are fewer than two.

    A worker runs job after job and CUDA sees the environment once, so that a GPU belongs to a worker, not to a job:
    the first that no other worker of the sweep has locked. More workers than GPUs share them by job number.
    """
    if len(gpus) < 2:
        return None
    for gpu in gpus:
        try:
            _held.append(open_locked(sweep / f".gpu-{re.sub(r'[^A-Za-z0-9]', '_', gpu)}.lock", wait=False))
        except (BlockingIOError, NoLocks):
            continue
        return gpu
    return gpus[job_number % len(gpus)]


def visible_gpus(environment: Mapping[str, str], nodes: Path = Path("/dev")) -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, found without loading torch."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return sorted(re.sub(r"\D", "", node.name) for node in nodes.glob("nvidia[0-9]*"))
