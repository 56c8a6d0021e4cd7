"""A minute of random bad input: no traceback, no hang, no exit code outside the contract (fuzz.py says how)."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SEED = 15


@pytest.mark.slow
def test_a_minute_of_bad_input(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.fuzz", str(SEED), "60"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
