"""scripts/slurm_array.sbatch on a real Slurm: honest exit codes, and a folder that survives being queued again."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.slurm.runs import LONG, WAITING, read, wait_for_step, weights

SCRIPT = str(ROOT / "scripts" / "slurm_array.sbatch")


def submit(cluster, folder: Path, cells: list[str], *more: str, options: tuple[str, ...] = ()) -> str:
    (folder / "cells.txt").write_text("".join(f"{cell}\n" for cell in cells))
    return cluster.submit(
        *options, f"--array=1-{len(cells)}", "--cpus-per-task=1", SCRIPT, "cells.txt", "sweep", *TINY, *more, cwd=folder
    )


@pytest.mark.slow
def test_each_cell_has_a_folder_and_slurm_its_exit_code(cluster, cfexplain, tmp_path):
    job = submit(cluster, tmp_path, ["seed=0", "seed=1 detector.learning_rate=1e30", "seed=2"], "stage=detector")
    ended = cluster.wait(job, WAITING)
    states = {task: (fields["JobState"], fields["ExitCode"]) for task, fields in ended.items()}
    assert states == {"1": ("COMPLETED", "0:0"), "2": ("FAILED", "1:0"), "3": ("COMPLETED", "0:0")}
    assert [read(tmp_path / "sweep" / cell / "run.json")["exit_code"] for cell in "123"] == [0, 1, 0]
    done = cfexplain("evaluate", "runs=sweep")
    assert done.code == 0 and "2 of 3 cells done" in done.stdout


@pytest.mark.slow
def test_a_cell_that_is_preempted_or_meets_its_limit_ends_like_one_that_is_not(cluster, cfexplain, tmp_path):
    """The signal of a time limit is sent by hand: Slurm may send its own up to a minute early."""
    (tmp_path / "limit").mkdir(), (tmp_path / "preempted").mkdir()
    limit = submit(cluster, tmp_path / "limit", ["seed=4 fit.steps=2", "seed=3"], *LONG)
    wait_for_step(tmp_path / "limit" / "sweep" / "2", 5)
    wait_for_step(tmp_path / "limit" / "sweep" / "1", 2)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{limit}_2")
    preempted = submit(cluster, tmp_path / "preempted", ["seed=3"], *LONG)
    wait_for_step(tmp_path / "preempted" / "sweep" / "1", 5)
    node_wide = cluster.submit("--partition=high", "--exclusive", "--wrap=sleep 1", "--output=/dev/null", cwd=tmp_path)
    cluster.wait(node_wide, WAITING)

    assert cfexplain("train", *TINY, *LONG, "seed=3", "run_dir=undisturbed").code == 0
    undisturbed = weights(tmp_path / "undisturbed")
    for name, job, number in (("limit", limit, "2"), ("preempted", preempted, "1")):
        ended = cluster.wait(job, WAITING)[number]
        assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), name
        assert int(ended["Restarts"]) >= 1, name
        cell = tmp_path / name / "sweep" / number
        assert read(cell / "run.json")["attempts"][0]["status"] == "interrupted", name
        assert (cell / "history.jsonl").read_text() == (tmp_path / "undisturbed" / "history.jsonl").read_text()
        found = weights(cell)
        assert all(found[key].equal(undisturbed[key]) for key in undisturbed), name
    # of the array whose last cell met its limit the other one has ended and stays so
    other = read(tmp_path / "limit" / "sweep" / "1" / "run.json")
    assert (other["status"], other["attempts"], cluster.jobs(limit)["1"]["Restarts"]) == ("done", [], "0")
