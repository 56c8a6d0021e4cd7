"""One process writes to a run folder: a lock on a file in it, which the kernel drops when its holder dies."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import IO

from cfexplain.errors import ConfigError
from cfexplain.files import NoLocks, open_locked

FILE = ".lock"
_held: dict[Path, IO[str]] = {}  # of this process; open files, since closing one gives its lock back


def hold(folder: Path) -> None:
    """Hold the folder until this process ends or lets go; holding it already is fine."""
    key = folder.resolve()
    if key in _held:
        return
    try:
        file = open_locked(folder / FILE, wait=False)
    except BlockingIOError as error:
        owner = (folder / FILE).read_text(encoding="utf-8").strip() or "another process"
        raise ConfigError(f"run_dir={folder} is being written by {owner}; give another run_dir") from error
    except NoLocks as error:
        raise ConfigError(f"run_dir={folder} cannot be locked ({error.strerror}); give one on a local disk") from error
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be written to: {error.strerror}") from error
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
