"""One run of a command in its folder, from the first line of the log to the exit code in run.json."""

from __future__ import annotations

import errno
import json
import logging
import math
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cfexplain.commands.base import Command, Job
from cfexplain.engine.stopping import stop_on_signals
from cfexplain.errors import (
    CfexplainError, CfexplainWarning, DataError, Interrupted, is_forbidden, is_out_of_memory, OUT_OF_MEMORY,
)
from cfexplain.files import finite, system_reason
from cfexplain.reporting.console import as_clock, complain, forget_reader, peak_memory_mb, Reporter
from cfexplain.reporting.live import finish_live
from cfexplain.reporting.tables import as_text
from cfexplain.runs.folder import claim_run_folder, let_go, RunFolder
from cfexplain.runs.lookup import point_latest

log = logging.getLogger("cfexplain")


def run_job(name: str, build: Callable[[], Command], config_yaml: str, folder: Path, argv: list[str]) -> float:
    """Run and record. Returns the headline metric for a sweeper, nan where the run failed; never raises but to stop.

    build: gives the command; mistakes in its config are the job's mistakes, so that a sweep's other jobs still run.
    """
    logging.raiseExceptions = False  # a full disk is said in one line, not with a traceback for each line of the log
    run = RunFolder(folder)
    try:
        claim_run_folder(folder)
        run.begin(name, argv, config_yaml)
    except (CfexplainError, OSError) as error:  # the folder is another process's, or full: leave its record alone
        complain(reason(error, folder))
        return math.nan
    try:
        with stop_on_signals():
            return _recorded(build, run)
    finally:
        let_go(folder)


def _recorded(build: Callable[[], Command], run: RunFolder) -> float:
    started = time.monotonic()
    reporter, as_json, output_root = Reporter(sys.stdout, run.path / "history.jsonl"), False, None
    command, metrics = None, {}
    status, code, stop = "failed", 1, None
    try:
        command = build()
        as_json, output_root = command.config.json, Path(command.config.output_root)
        if as_json:
            reporter.stream = sys.stderr
        job = Job(folder=run, reporter=reporter)
        log.info("%s", " ".join(run.record["argv"]))
        with warnings_as_notes(job):
            metrics = command.run(job)
        status, code = "done", 0
    except CfexplainError as error:
        code = error.exit_code
        if isinstance(error, Interrupted):
            status, stop = "interrupted", KeyboardInterrupt()
        log.exception("%s", error)
        complain(str(error))
    except (KeyboardInterrupt, SystemExit) as error:  # SystemExit: a cluster's launcher takes the job back
        status, code, stop = "interrupted", Interrupted.exit_code, error
        log.exception("interrupted")
    except BrokenPipeError:  # `cfexplain train | head`
        forget_reader()
        status, code, stop = "interrupted", Interrupted.exit_code, KeyboardInterrupt()
        log.exception("the reader of stdout has left")
    except Exception as error:  # noqa: BLE001: the boundary: the traceback goes to the log, one line to the user
        code = DataError.exit_code if is_forbidden(error) else 1
        log.exception("failed")
        complain(reason(error, run.path))
    seconds = time.monotonic() - started
    timings = run.record["timings_seconds"] | {"total": round(seconds, 3)}
    peak = max(round(peak_memory_mb(), 1), run.record["peak_memory_mb"] or 0)  # rank 0 of several has noted its own
    try:
        run.update(status=status, exit_code=code, timings_seconds=timings, peak_memory_mb=peak)
    except OSError as error:  # no room even for this: the code of a run without a record is 1
        if status != "failed":  # else it was said above
            complain(reason(error, run.path))
        status, code = "failed", 1
        run.record.update(status=status, exit_code=code)
    with suppress(OSError):  # the page is a view of the run and must not fail it
        finish_live(run.path)
    if code == 0 and output_root is not None:
        point_latest(output_root, run.record["command"], run.path)
    _say_end(reporter, command, run, metrics, seconds)
    if as_json:
        result = {"status": status, "exit_code": code, "run": str(run.path), "metrics": finite(metrics)}
        print(json.dumps(result), flush=True)
    if stop is not None:
        raise stop  # Hydra lets these pass, so that a sweep starts no further job
    return float(metrics.get(command.headlines[0], math.nan)) if command is not None else math.nan


def reason(error: Exception, folder: Path) -> str:
    """A failure in one line."""
    if isinstance(error, CfexplainError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {folder}; free some and run the same command again"
    if is_forbidden(error):
        return system_reason(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return f"{type(error).__name__}: {error} (traceback: {folder / 'cfexplain.log'})"


def _say_end(
    reporter: Reporter, command: Command | None, run: RunFolder, metrics: dict[str, float | str], seconds: float
) -> None:
    """Status, headline numbers, wall time, folder, next command: also after a failure."""
    status = run.record["status"]
    keys = [key for key in command.headlines if key in metrics] if command is not None else []
    numbers = " ".join(f"{key} {as_text(metrics[key])}" for key in keys)
    reporter.say(f"{status} in {as_clock(seconds)}{'; ' + numbers if numbers else ''}")
    reporter.say(f"folder: {run.path}")
    if status == "interrupted":
        words = [word for word in run.record["argv"] if not word.startswith("run_dir=")]
        reporter.say(f"to continue: {shlex.join([*words, f'run_dir={run.path}'])}")
    elif status == "done":
        reporter.say(f"next: {command.next_command(run.path, metrics)}")
    elif status == "failed":
        reporter.say(f"log: {run.path / 'cfexplain.log'}")


@contextmanager
def warnings_as_notes(job: Job) -> Iterator[None]:
    """CfexplainWarnings are meant for the reader; other libraries' warnings go to the log."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, CfexplainWarning):
            job.note(str(message))
        else:
            log.warning("%s: %s", category.__name__, message)

    with warnings.catch_warnings():
        warnings.simplefilter("always", CfexplainWarning)
        warnings.showwarning = show
        yield
