"""Signals: a training loop finishes its step and saves; elsewhere a run stops where it is, like on Ctrl-C.

TERM, INT, USR1 and USR2 all ask a run to stop. A second INT stops at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)


class StopRequested(KeyboardInterrupt):
    """By a signal. A class of its own, since a bare KeyboardInterrupt that leaves an `exec` of text (dataclasses make
    their methods so, at any import) has `python -m` end itself by SIGINT whatever exit code it was given:
    https://github.com/python/cpython/blob/3.11/Python/pythonrun.c, unhandled_keyboard_interrupt.
    """


class _Stop:
    """The process's one state, since signals are the process's: which signal came, and whether a loop looks for it."""

    signal_name: str | None = None
    is_awaited: bool = False


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Take over the signals that nobody handles yet: jobs of a cluster keep their launcher's handlers."""
    taken: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python delivers signals to no other
        for number in SIGNALS:
            if (before := signal.getsignal(number)) in DEFAULT_HANDLERS:
                taken[number] = before
                signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, before in taken.items():
            signal.signal(number, before)
        if taken:
            _Stop.signal_name = None


@contextmanager
def handlers_restored() -> Iterator[list[str]]:
    """The names of the signals that stop this run, for whoever takes them over meanwhile."""
    stops = [number for number in SIGNALS if signal.getsignal(number) is _on_signal]
    try:
        yield [number.name for number in stops]
    finally:
        for number in stops if threading.current_thread() is threading.main_thread() else ():
            signal.signal(number, _on_signal)


@contextmanager
def between_steps() -> Iterator[None]:
    """While this lasts a signal is only noted: the loop asks `requested()` after each step."""
    before, _Stop.is_awaited = _Stop.is_awaited, True
    try:
        yield
    finally:
        _Stop.is_awaited = before
    if _Stop.signal_name is not None and not before:  # it came after the last step
        raise StopRequested(_Stop.signal_name)


def requested() -> str | None:
    """The name of the signal that asks to stop."""
    return _Stop.signal_name


def _on_signal(number: int, _frame: object) -> None:
    is_first, name = _Stop.signal_name is None, signal.Signals(number).name
    if is_first:
        _Stop.signal_name = name
    if number == signal.SIGINT and not is_first:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third one ends the process
        raise StopRequested(name)
    if is_first and not _Stop.is_awaited:
        raise StopRequested(name)
