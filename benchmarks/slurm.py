"""An array of six cells on a real Slurm of one node: one is preempted, one meets its time limit.

All must end COMPLETED, each in one folder, with the weights and the history of a run that nobody disturbed.

    python -m benchmarks.slurm        # as root, with slurmctld, slurmd, slurm-client and munge; about ten minutes
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT, TINY
from tests.slurm.one_node import Slurm, one_node
from tests.slurm.runs import LONG, read, wait_for_step, weights

NUM_CELLS, WATCHED, LIMITED = 6, 2, 6  # cells, counted from 1
STEPS = 60
STEPS_BEYOND_THE_LIMIT = int(os.environ.get("STEPS", "4000"))
LIMIT = ["--time=3", "--signal=B:USR1@60"]  # Slurm sends it up to a minute early: after one to two minutes
SHARED = [*TINY, *LONG, "fit.checkpoint_every_steps=50"]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        root = Path(name)
        (root / "slurm").mkdir()
        with one_node(root / "slurm") as slurm:
            slurm.environment.update(
                CFEXPLAIN=f"{sys.executable} -m cfexplain", PYTHONPATH=str(ROOT), CFEXPLAIN_CACHE=str(root / "cache")
            )
            started = time.monotonic()
            jobs = disturbed(slurm, root)
            print(f"the array took {time.monotonic() - started:.0f} s")
            equal = [check(slurm, root, cell, jobs[str(cell)]) for cell in range(1, NUM_CELLS + 1)]
            restarts = {cell: int(job["Restarts"]) for cell, job in jobs.items()}
    met_limit, was_preempted = restarts.pop(str(LIMITED)) > 0, sum(restarts.values()) > 0
    print(f"a cell met its limit: {met_limit} (else raise STEPS); another was preempted: {was_preempted}")
    sys.exit(0 if all(equal) and met_limit and was_preempted else 1)


def cells() -> list[list[str]]:
    steps = {LIMITED: STEPS_BEYOND_THE_LIMIT}
    return [[f"seed={cell}", f"fit.steps={steps.get(cell, STEPS)}"] for cell in range(1, NUM_CELLS + 1)]


def disturbed(slurm: Slurm, root: Path) -> dict[str, dict[str, str]]:
    (root / "cells.txt").write_text("".join(" ".join(cell) + "\n" for cell in cells()))
    script = str(ROOT / "scripts" / "slurm_array.sbatch")
    options = [*LIMIT, f"--array=1-{NUM_CELLS}", "--cpus-per-task=1"]
    job = slurm.submit(*options, script, "cells.txt", "sweep", *SHARED, cwd=root)
    wait_for_step(root / "sweep" / str(WATCHED), 10)
    # No core is free: one of the running cells has to go.
    slurm.submit("--partition=high", "--cpus-per-task=1", "--wrap=sleep 5", "--output=/dev/null", cwd=root)
    return slurm.wait(job, 3600)


def check(slurm: Slurm, root: Path, cell: int, job: dict[str, str]) -> bool:
    words = [sys.executable, "-m", "cfexplain", "train", *SHARED, *cells()[cell - 1], f"run_dir=alone/{cell}"]
    subprocess.run(words, cwd=root, env=slurm.environment, check=True, stdout=subprocess.DEVNULL)
    found, alone = root / "sweep" / str(cell), root / "alone" / str(cell)
    ended = [attempt["status"] for attempt in read(found / "run.json")["attempts"]]
    same = all(tensor.equal(weights(alone)[key]) for key, tensor in weights(found).items())
    history = (found / "history.jsonl").read_bytes() == (alone / "history.jsonl").read_bytes()
    print(f"cell {cell}: {job['JobState']} {job['ExitCode']}, queued again {job['Restarts']} times, earlier attempts "
          f"{ended or 'none'}, weights {'equal' if same else 'DIFFER'}, history {'equal' if history else 'DIFFERS'}")
    return (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0") and same and history


if __name__ == "__main__":
    main()
