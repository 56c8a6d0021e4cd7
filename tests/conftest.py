"""Shared by all tests: a command line in a process of its own, and a folder for cached data of this test session."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A shell starts a background job with SIGINT ignored, and its children inherit that; a caught signal they do not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = [
    "dataset.train_size=240", "exposure.limit=200", "dataset.test_size=80", "dataset.reference_size=240",
    "encoder.width=4", "detector.steps=30", "detector.batch_size=32", "fit.steps=6", "fit.batch_size=8",
    "fit.log_every_steps=2", "fit.image_every_steps=4", "fit.checkpoint_every_steps=2", "generator.width=8",
    "generator.discriminator_width=8", "generator.concept_width=8", "runtime=cpu",
]


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str
    cpu_seconds: float  # of the process: the wall clock of a shared machine says little


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def hydra_seconds() -> float:
    """CPU seconds in which this machine loads Hydra and numpy: the measure of a start that loads no torch.

    torch takes about six of it, a config mistake two and a half, help a quarter, that of the doctor one.
    """
    def once() -> float:
        before = _children_seconds()
        subprocess.run([sys.executable, "-c", "import hydra, numpy"], check=True)
        return _children_seconds() - before

    return max(once() for _ in range(2))


def run_cfexplain(folder: Path, cache: Path, *args: str, timeout: float = 300) -> Finished:
    """`cfexplain *args` in a folder, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(cache)}
    before = _children_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "cfexplain", *args], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )
    return Finished(done.returncode, done.stdout, done.stderr, _children_seconds() - before)


@pytest.fixture
def cfexplain(tmp_path, session_cache):
    """Run `cfexplain *args` in tmp_path."""
    return partial(run_cfexplain, tmp_path, session_cache)
