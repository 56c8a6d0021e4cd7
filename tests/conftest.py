"""Shared by all tests: a command line in a process of its own, and a folder for cached data of this test session."""

import os
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


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run_cfexplain(
    folder: Path, cache: Path, *args: str, timeout: float = 300, path: tuple[Path, ...] = (ROOT,)
) -> Finished:
    """`cfexplain *args` in a folder, in a process of its own. path: where modules are looked for first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "CFEXPLAIN_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "cfexplain", *args], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cfexplain(tmp_path, session_cache):
    """Run `cfexplain *args` in tmp_path."""
    return partial(run_cfexplain, tmp_path, session_cache)


@pytest.fixture
def cfexplain_without(tmp_path, tmp_path_factory, session_cache):
    """cfexplain_without(module, ...)(*args): the same where these modules cannot be loaded; torch takes seconds."""
    def without(*modules: str):
        folder = tmp_path_factory.mktemp("without")
        for module in modules:
            (folder / f"{module}.py").write_text(f"raise SystemError('{module} is not to be loaded')\n")
        return partial(run_cfexplain, tmp_path, session_cache, path=(folder, ROOT))

    return without
