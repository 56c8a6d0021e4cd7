"""Signals in a process of their own: a loop ends its step first, other code stops at once, a second INT always does."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LOOP = """
import signal, sys, time
from cfexplain.engine import stopping
with stopping.stop_on_signals():
    try:
        with stopping.between_steps():
            for step in range(200):
                print("begin", flush=True)
                time.sleep(0.1)
                print("end", flush=True)
                if stopping.requested() and "deaf" not in sys.argv:
                    print("noticed", stopping.requested(), flush=True)
                    break
    except KeyboardInterrupt as error:
        print("interrupted by", error, flush=True)
"""
ELSEWHERE = """
import time
from cfexplain.engine import stopping
with stopping.stop_on_signals():
    try:
        print("begin", flush=True)
        time.sleep(20)
    except KeyboardInterrupt as error:
        print("interrupted by", error, flush=True)
"""
IN_TEXT = """
import sys
from cfexplain.engine import stopping
with stopping.stop_on_signals():
    try:
        exec("import time; print('begin', flush=True); time.sleep(20)")
    except KeyboardInterrupt:
        sys.exit(75)
"""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def begun(code: str, *argv: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", code, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begin\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_a_loop_ends_its_step_first(number):
    process = begun(LOOP)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert output.splitlines()[:2] == ["end", f"noticed {number.name}"]


@pytest.mark.parametrize("number", SIGNALS)
def test_other_code_stops_at_once(number):
    process = begun(ELSEWHERE)
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert output == f"interrupted by {number.name}\n"


def test_a_second_int_does_not_wait_for_the_loop():
    process = begun(LOOP, "deaf")
    process.send_signal(signal.SIGTERM)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)  # a second TERM is no second INT
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert output.splitlines()[-1] == "interrupted by SIGINT"


def test_a_launchers_handler_stays():
    code = """
import os, signal
from cfexplain.engine import stopping
signal.signal(signal.SIGUSR2, lambda *_: print("launcher", flush=True))
with stopping.stop_on_signals():
    os.kill(os.getpid(), signal.SIGUSR2)
    print(stopping.requested())
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("launcher\nNone\n", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_exit_code_is_kept_where_the_signal_meets_an_exec_of_text(tmp_path, number):
    (tmp_path / "in_text.py").write_text(IN_TEXT)
    process = subprocess.Popen(
        [sys.executable, "-m", "in_text"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    )
    assert process.stdout.readline() == "begin\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 75
