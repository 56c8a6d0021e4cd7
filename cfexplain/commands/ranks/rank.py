"""One rank of a training in several processes, as commands/ranks/watched.py starts it.

Rank 0 does what a single process does, with its part of each batch. The others compute alongside and write nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cfexplain import config as configs
from cfexplain.commands.base import Job
from cfexplain.commands.job import reason, warnings_as_notes
from cfexplain.commands.ranks.place import joined_at, RankOfRun
from cfexplain.commands.stages import train_other_rank
from cfexplain.commands.train import train_run
from cfexplain.commands.train_config import TrainConfig
from cfexplain.engine.stopping import stop_on_signals
from cfexplain.errors import CfexplainError, Interrupted
from cfexplain.files import read_json
from cfexplain.reporting.console import complain, peak_memory_mb, Reporter
from cfexplain.runs.folder import RunFolder

MAX_TRACEBACK = 20_000  # characters; what is said at the end must fit the line's buffer


def main(folder: Path, line: socket.socket, place: RankOfRun) -> int:
    """Train, and say over the line what it ended with, if not well."""
    threading.Thread(target=_end_with_the_starter, args=(line, place), daemon=True).start()
    try:
        with stop_on_signals():
            _train(folder, place)
        return 0
    except BaseException as error:  # noqa: BLE001: the boundary: whatever it is, the starter says it
        words = _last_words(error, folder)
        line.sendall(json.dumps(words).encode())
        return words["exit_code"]


def follow_torchrun(config: TrainConfig, place: RankOfRun) -> int:
    """A rank other than 0 under torchrun: its exit code. What all ranks find wrong, rank 0 says."""
    try:
        with joined_at(place, config.runtime, config.device) as (device, ranks):
            train_other_rank(config, device, ranks)
        return 0
    except CfexplainError as error:
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    except Exception as error:  # noqa: BLE001: the boundary
        traceback.print_exc()
        complain(f"rank {place.rank}: {type(error).__name__}: {error}")
        return 1


def _train(folder: Path, place: RankOfRun) -> None:
    values = configs.read(folder / "config.yaml") | {"run_dir": str(folder)}
    config = configs.build_root(values, TrainConfig)
    with joined_at(place, config.runtime, config.device) as (device, ranks):
        if place.rank > 0:
            train_other_rank(config, device, ranks)
            return
        with _job(config, folder) as job, warnings_as_notes(job):
            train_run(config, job, device, ranks)


@contextmanager
def _job(config: TrainConfig, folder: Path) -> Iterator[Job]:
    """The job that the starter began, carried on in this process; it closes it afterwards."""
    _log_to(folder / "cfexplain.log")
    run = RunFolder(folder, read_json(folder / "run.json"))
    reporter = Reporter(sys.stderr if config.json else sys.stdout, folder / "history.jsonl")
    try:
        yield Job(folder=run, reporter=reporter)
    finally:
        reporter.end_stage()
        with suppress(OSError):  # a full disk has its own reason
            run.update(peak_memory_mb=round(peak_memory_mb(), 1))


def _log_to(path: Path) -> None:
    """As conf/hydra/job_logging/to_file.yaml has it."""
    logging.raiseExceptions = False
    logging.basicConfig(filename=path, format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s", level=logging.INFO)


def _last_words(error: BaseException, folder: Path) -> dict[str, Any]:
    is_stop = isinstance(error, KeyboardInterrupt | SystemExit | BrokenPipeError)
    code = Interrupted.exit_code if is_stop else error.exit_code if isinstance(error, CfexplainError) else 1
    return {
        "kind": type(error).__name__,
        "message": reason(error, folder),
        "exit_code": code,
        "traceback": "".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
    }


def _end_with_the_starter(line: socket.socket, place: RankOfRun) -> None:
    """Its end of the line is closed when it dies, of kill -9 too. What it would have tidied away is removed here."""
    with suppress(OSError):
        line.recv(1)
    shutil.rmtree(Path(place.init_method.removeprefix("file://")).parent, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), RankOfRun(**json.loads(sys.argv[3])))
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a torn group of processes may wait for peers when it is taken apart
