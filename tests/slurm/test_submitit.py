"""hydra/launcher=submitit_slurm on a real Slurm: a job that meets its time limit goes on in its folder."""

import subprocess
import sys

import pytest

from tests.conftest import TINY
from tests.slurm.runs import LONG, WAITING, read, wait_for_step, weights

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'cfexplain[cluster]'")


@pytest.mark.slow
def test_a_sweep_as_a_job_array(cluster, cfexplain, tmp_path):
    """The signal of the time limit is sent by hand: Slurm may send its own up to a minute early."""
    words = [
        "train", "-m", *TINY, *LONG, "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.timeout_min=9", "seed=3", "detector.learning_rate=0.001,1e30", "run_dir=sweep",
    ]
    with (tmp_path / "said").open("w") as said:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "cfexplain", *words], cwd=tmp_path, env=cluster.environment, stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for_step(tmp_path / "sweep" / "0", 5)
            number = read(tmp_path / "sweep" / "0" / "run.json")["pid"]
            (job,) = {line.split("_")[0] for line in cluster.run("squeue", "--noheader", "--format=%i").splitlines()}
            cluster.run("scancel", "--signal=USR2", f"{job}_0")
            code = launcher.wait(timeout=2 * WAITING)
        finally:
            launcher.kill()
    text = (tmp_path / "said").read_text()
    assert code == 1, text
    assert "1 of 2 cells done" in text and "not finite" in text
    records = {cell: read(tmp_path / "sweep" / cell / "run.json") for cell in "01"}
    assert [record["exit_code"] for record in records.values()] == [0, 1]
    assert records["0"]["pid"] != number and len(records["0"]["attempts"]) == 1  # queued again, once
    assert cluster.jobs(job)["0"]["Restarts"] == "1"

    assert cfexplain("train", *TINY, *LONG, "seed=3", "run_dir=undisturbed").code == 0
    whole, found = weights(tmp_path / "undisturbed"), weights(tmp_path / "sweep" / "0")
    assert all(found[key].equal(whole[key]) for key in whole)
    assert (tmp_path / "sweep" / "0" / "history.jsonl").read_text() == (
        tmp_path / "undisturbed" / "history.jsonl").read_text()
