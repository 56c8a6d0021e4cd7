"""The mistakes a user can make, each with the exit code of the process (docs: exit codes)."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeGuard


INTERRUPTED = 75  # exit code: stopped from outside with the state saved


class CfexplainError(Exception):
    """One line for the user: what is wrong, where, and what to do about it."""

    exit_code = 1


class ConfigError(CfexplainError):
    """A command line or config file that cannot be meant."""

    exit_code = 2


class DataError(CfexplainError):
    """Data, weights or a run are missing or damaged."""

    exit_code = 3


class FitError(CfexplainError):
    """Training went wrong: a loss that is not finite, a detector that collapsed."""


class DiskFull(CfexplainError):
    """No space left where the run writes; what was saved before is whole."""


class Interrupted(CfexplainError):
    """Stopped from outside with the state saved; the same command goes on."""

    exit_code = INTERRUPTED


class CfexplainWarning(UserWarning):
    """Something the reader of a number must know; it is written beside the number."""


OUT_OF_MEMORY = "out of memory: this needs more than the machine has; lower the sizes of the networks or the batch"


def reason_of(error: BaseException) -> str:
    """What an error says, in one line of at most 200 letters; its type where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_forbidden(error: BaseException) -> TypeGuard[OSError]:
    """Whether the system refused to let this user read or write a file."""
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def is_out_of_memory(error: BaseException) -> bool:
    """By what torch says on a CPU too, also of sizes that no machine counts to."""
    words = r"allocate memory|out of memory|[Ss]torage size calculation overflowed|Overflow when unpacking|too large to"
    return isinstance(error, MemoryError) or re.search(words, str(error)) is not None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean normal?' for the closest known word, or an empty string."""
    close = get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""
