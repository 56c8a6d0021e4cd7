"""hydra/launcher=joblib: cells side by side, one thread and one GPU each; a stopped sweep lets its cells save."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, TINY

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'cfexplain[joblib]'")
TWO = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SEEN = """
import json, os
from dataclasses import dataclass
from cfexplain.detectors.bce import Bce

@dataclass(frozen=True, kw_only=True)
class Seen(Bce):
    def __post_init__(self):
        super().__post_init__()
        seen = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
        with open(f"seen-{os.getpid()}.json", "w") as file:
            json.dump(seen, file)
"""


@pytest.mark.slow
def test_each_worker_has_one_thread_and_a_gpu_of_its_own_and_a_failure_stays_alone(cfexplain, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # the jobs compute on the CPU all the same
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (tmp_path / "seen.py").write_text(SEEN)
    done = cfexplain(
        "train", "-m", *TINY, *TWO, "stage=detector", "device=cpu", "detector._target_=seen.Seen",
        "allow_custom_code=true", "seed=0,1", "detector.learning_rate=0.001,1e30", "run_dir=sweep",
    )
    assert done.code == 1 and "2 of 4 cells done" in done.stdout, done.stderr
    codes = [json.loads((tmp_path / "sweep" / cell / "run.json").read_text())["exit_code"] for cell in "0123"]
    assert codes == [0, 1, 0, 1]
    seen = sorted(
        tuple(json.loads(file.read_text()).values()) for file in tmp_path.glob("seen-*.json")
    )
    assert seen == [("1", "3"), ("1", "5"), ("2", "3,5")]  # the last one is the command itself


@pytest.mark.slow
def test_a_stopped_sweep_lets_its_cells_save_and_goes_on(cfexplain, tmp_path, session_cache):
    more = ["fit.steps=80", "fit.log_every_steps=1", "fit.image_every_steps=1000", "fit.checkpoint_every_steps=1000"]
    words = ["train", "-m", *TINY, *more, *TWO, "seed=0,1,2", "run_dir=sweep"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(session_cache)}
    sweep = subprocess.Popen(
        [sys.executable, "-m", "cfexplain", *words], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    ends = time.monotonic() + 90
    histories = [tmp_path / "sweep" / cell / "history.jsonl" for cell in "01"]
    while not all(file.exists() and '"generator", "step": 3,' in file.read_text() for file in histories):
        assert time.monotonic() < ends and sweep.poll() is None
        time.sleep(0.1)
    sweep.send_signal(signal.SIGTERM)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 75 and "run_dir=sweep" in said.splitlines()[-1]
    for cell in "01":
        assert json.loads((tmp_path / "sweep" / cell / "run.json").read_text())["status"] == "interrupted"
        assert (tmp_path / "sweep" / cell / "checkpoints" / "last.pt").exists()  # none was due before
    assert not (tmp_path / "sweep" / "2").exists()
    done = cfexplain(*words)
    assert done.code == 0 and "3 of 3 cells done" in done.stdout, done.stderr
    assert "generator continues at step" in done.stdout
