"""argv -> command -> exit code. Nothing here loads torch, and what a command needs loads once it is known."""

from __future__ import annotations

import importlib
import os
import sys

from cfexplain.errors import (
    CfexplainError, ConfigError, DataError, did_you_mean, INTERRUPTED, is_out_of_memory, OUT_OF_MEMORY, reason_of,
)
from cfexplain.files import system_reason
from cfexplain.reporting.console import complain, forget_reader
from cfexplain.version import VERSION

COMMANDS = {
    "train": "train a detector and the generator of its counterfactuals",
    "explain": "write counterfactuals of anomalies: pictures, samples.csv, report.html",
    "evaluate": "measure a run: metrics.json, a table, report.html",
    "doctor": "check this machine: versions, device, folders, data, a ten-step run",
}
SHOW_TRACEBACK = "CFEXPLAIN_TRACEBACK"
WITHOUT_CONFIG = ("doctor",)  # commands that Hydra has no part in
USAGE = "\n".join([
    "cfexplain: what would this anomaly look like if it were normal?",
    "",
    "usage: cfexplain <command> [key=value ...] [-m] [--json]",
    "",
    *(f"  {name:10}{text}" for name, text in COMMANDS.items()),
    "",
    "  cfexplain train                 about four minutes on two cores, nothing to download",
    "  cfexplain explain run=latest",
    "  cfexplain evaluate run=latest",
    "",
    "cfexplain <command> --help shows its groups and examples. Tab completion: eval \"$(cfexplain -sc install=bash)\"",
])


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 usage or config, 3 data or run missing or damaged, 75 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _listen_to_nobody()
    try:
        code = _main(argv)
        sys.stdout.flush()
        return code
    except CfexplainError as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:  # `cfexplain --help | head`: the reader has left, which is no failure
        forget_reader()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # no permission, a name too long, links in a circle
        complain(system_reason(error))
        return DataError.exit_code
    except Exception as error:  # noqa: BLE001: the boundary
        if os.environ.get(SHOW_TRACEBACK):
            raise
        unforeseen = f"unforeseen {type(error).__name__}: {reason_of(error)} ({SHOW_TRACEBACK}=1 shows where)"
        complain(OUT_OF_MEMORY if is_out_of_memory(error) else unforeseen)
        return 1


def _listen_to_nobody() -> None:
    """Where stdout or stderr is closed, what is written there goes nowhere; the result does not depend on it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _main(argv: list[str]) -> int:
    if not argv:
        print(USAGE, file=sys.stderr)
        return 2
    if argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if "--version" in argv:
        print(f"cfexplain {VERSION}")
        return 0
    if argv[0] in ("-sc", "--shell-completion", "--shell_completion"):
        return _complete(argv)
    if argv[0] not in COMMANDS:
        raise ConfigError(f"no command '{argv[0]}'.{did_you_mean(argv[0], COMMANDS)} Commands: {', '.join(COMMANDS)}")
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError("the working folder has been deleted; change to one that is there") from error
    if argv[0] in WITHOUT_CONFIG:
        return importlib.import_module(f"cfexplain.commands.{argv[0]}").main(argv[1:])
    from cfexplain.dispatch import dispatch

    return dispatch(argv[0], argv[1:])


def _complete(argv: list[str]) -> int:
    """Hydra's bash hook knows programs without commands: complete the command, then hand the rest to its config."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    query = argv[1] if len(argv) > 1 else ""
    if query.startswith("query="):
        if len(words) <= 2:
            print(" ".join(name for name in COMMANDS if name.startswith(words[-1] if len(words) > 1 else "")))
            return 0
        if words[1] not in COMMANDS or words[1] in WITHOUT_CONFIG:
            return 0
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    command = words[1] if query.startswith("query=") else "train"
    from cfexplain.dispatch import complete

    return complete(command, argv)
