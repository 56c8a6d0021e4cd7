"""One job at a time: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfexplain.errors import DataError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, made where it is not there; wait for whoever holds it. It stays, empty."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        reason = f"cannot write to {path.parent} ({error.strerror})"
        raise DataError(f"{reason}. Set cache_dir to a writable folder.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise DataError(f"cannot lock {path} ({error.strerror}). Set cache_dir to a local disk.") from error
        yield
