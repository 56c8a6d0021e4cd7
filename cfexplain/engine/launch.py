"""Several processes of a training on this machine, started and watched by torch's own launcher, that of torchrun.

It starts the ranks, each in a session of its own, ends the others when one has failed, and passes a stop on. Ours is
what it has not. Each rank notes what it ended with, so that the first cause is said, with its own exit code. The ranks
end when this process is killed, and hold the run's folder until then: the launcher hands on no descriptor but the
standard ones, so the folder's lock is their standard input.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from cfexplain.engine import stopping
from cfexplain.engine.distributed import PeerLost
from cfexplain.errors import CfexplainError, INTERRUPTED, Interrupted
from cfexplain.files import write_text
from cfexplain.lazy import launcher

log = logging.getLogger("cfexplain")
SILENT = ""  # the kind of an end that nothing was noted of
FOLLOWERS = (Interrupted.__name__, stopping.StopRequested.__name__, PeerLost.__name__)  # of a stop, or of another's end
LOOK_SECONDS = 0.2


class RankFailed(CfexplainError):
    """What one rank died of."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch(main: Callable[[], None], num_ranks: int, folder: Path, lock: int) -> None:
    """Call `main` in new processes, with the environment that torchrun gives; only rank 0 is heard.

    main: a function of a module, which calls `run_rank`. lock: descriptor of the open file that holds the folder.
    """
    # Ctrl-C ends a rank that is still importing without a traceback.
    code = (f"import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); sys.path[:] = {sys.path}; "
            f"from {main.__module__} import {main.__name__}; {main.__name__}()")
    passed_on, failures = None, {}
    with tempfile.TemporaryDirectory(prefix="cfexplain-") as notes:
        words = ["-c", code, str(folder), notes, str(os.getpid())]
        with stopping.handlers_restored() as signals, _as_standard_input(lock), _quiet_launcher():
            config = launcher.LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=num_ranks, max_restarts=0, signals_to_handle=",".join(signals),
                run_id="cfexplain", rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
                logs_specs=launcher.DefaultLogsSpecs(log_dir=os.devnull),
            )
            try:
                launcher.elastic_launch(config, sys.executable)(*(word.replace("$", "$$") for word in words))
                return
            except launcher.SignalException as error:
                passed_on = error.sigval.name
            except launcher.ChildFailedError as error:
                failures = error.failures
        noted = {int(file.stem): json.loads(file.read_text(encoding="utf-8")) for file in Path(notes).glob("*.json")}
    for rank, end in sorted(noted.items()):
        log.error("rank %d: %s", rank, end["traceback"])
    raise reason_of_ends(noted, failures, passed_on, num_ranks, folder)


def run_rank(work: Callable[[Path], None], describe: Callable[[BaseException, Path], str]) -> NoReturn:
    """Do `work(folder)` as one of the processes of `launch`. describe: an error in one line."""
    folder, notes, starter, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(os.environ["RANK"])
    threading.Thread(target=_end_with, args=(starter, notes), daemon=True).start()
    if rank > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(folder / "cfexplain.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = max(1, cores // int(os.environ["WORLD_SIZE"]))  # the threads of all ranks would wait for each other
    wanted = {  # torch is not loaded yet, which reads these
        "OMP_NUM_THREADS": str(num_threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # gloo tells of each connection
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),  # a host's own name may lead nowhere
    }
    os.environ |= wanted | dict(os.environ)
    code = 0
    try:
        with stopping.stop_on_signals():
            work(folder)
    except BaseException as error:  # noqa: BLE001: the boundary: whatever it is, the starter says it
        is_stop = isinstance(error, KeyboardInterrupt | SystemExit | BrokenPipeError)
        code = INTERRUPTED if is_stop else error.exit_code if isinstance(error, CfexplainError) else 1
        end = {"kind": type(error).__name__, "message": describe(error, folder), "exit_code": code,
               "traceback": "".join(traceback.format_exception(error))}
        with suppress(OSError):
            write_text(notes / f"{rank}.json", json.dumps(end))
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(code)  # a torn group of processes may wait for peers when it is taken apart


def reason_of_ends(
    noted: Mapping[int, Mapping[str, Any]], failures: Mapping[int, Any], passed_on: str | None, num_ranks: int,
    folder: Path,
) -> BaseException:
    """What the run ends with: the first cause, or a stop.

    noted: the ends that ranks noted, by rank. failures: exitcode and timestamp of ranks, those among them that the
    launcher ended itself. passed_on: the signal by which the ranks were told to stop.
    """

    def place(rank: int) -> tuple[float, ...]:
        kind = noted.get(rank, {}).get("kind", SILENT)
        if kind == SILENT:  # killed; by SIGTERM when the launcher ended it before it was ready
            return (1 if failures[rank].exitcode != -signal.SIGTERM else 9, failures[rank].timestamp, rank)
        return (2 + FOLLOWERS.index(kind) if kind in FOLLOWERS else 0, 0, rank)

    if not (ranks := sorted({*noted, *failures}, key=place)):
        return stopping.StopRequested(passed_on)
    first = ranks[0]
    if first not in noted:
        return RankFailed(
            f"rank {first} of {num_ranks} {_ended(failures[first].exitcode)}, and the run with it; its last checkpoint "
            f"is whole: the same command with run_dir={folder} goes on from there", 1,
        )
    kind, message = noted[first]["kind"], noted[first]["message"]
    if kind == BrokenPipeError.__name__:
        return BrokenPipeError()
    if kind == Interrupted.__name__:
        return Interrupted(message)
    if kind == stopping.StopRequested.__name__ or (kind in FOLLOWERS and passed_on is not None):
        return stopping.StopRequested(passed_on or message)
    return RankFailed(message if first == 0 else f"rank {first}: {message}", noted[first]["exit_code"])


def _ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


def _end_with(starter: int, notes: Path) -> None:
    """When it was killed, of kill -9 too. What it would have tidied away is removed here."""
    while os.getppid() == starter:
        time.sleep(LOOK_SECONDS)
    shutil.rmtree(notes, ignore_errors=True)
    os._exit(1)


@contextmanager
def _as_standard_input(descriptor: int) -> Iterator[None]:
    before = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """What it logs of the ranks is said better here."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
