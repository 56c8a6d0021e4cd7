"""The built wheel, away from the checkout: it finds its conf/ and trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_an_installed_wheel_trains_from_another_folder(tmp_path, session_cache):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(ROOT)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    assert (site / "cfexplain" / "conf" / "train.yaml").is_file()
    pages = ROOT / "cfexplain" / "reporting" / "templates"
    assert {file.name for file in pages.iterdir()} == {
        file.name for file in (site / "cfexplain" / "reporting" / "templates").iterdir()
    } != set()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "CFEXPLAIN_CACHE": str(session_cache)}
    command = [sys.executable, "-m", "cfexplain", "train", *TINY, "run_dir=t"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import cfexplain; print(cfexplain.__file__)"]
    place = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert str(site) in place.stdout
    assert (elsewhere / "t" / "checkpoints" / "generator.pt").is_file()
