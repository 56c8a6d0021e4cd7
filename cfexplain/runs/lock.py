"""One process writes to a run folder: a lock on a file in it, which the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from cfexplain.errors import ConfigError

FILE = ".lock"
_held: dict[Path, IO[str]] = {}  # of this process; open files, since closing one gives its lock back


def hold(folder: Path) -> None:
    """Hold the folder until this process ends or lets go; holding it already is fine."""
    key = folder.resolve()
    if key in _held:
        return
    try:
        file = (folder / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be written to: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ConfigError(f"run_dir={folder} is being written by {owner}; give another run_dir") from error
    except OSError as error:
        file.close()
        raise ConfigError(f"run_dir={folder} cannot be locked ({error.strerror}); give one on a local disk") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[key] = file


def handle(folder: Path) -> int:
    """The lock's open file: a process that inherits it holds the folder too, until it ends."""
    return _held[folder.resolve()].fileno()


def let_go(folder: Path) -> None:
    """Give the folder back, where this process holds it."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        file.close()
