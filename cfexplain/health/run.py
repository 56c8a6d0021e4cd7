"""Health of the whole: ten steps of detector and generator through the real command, in a folder that is removed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cfexplain
from cfexplain.health.check import Check, Mark

NUM_STEPS = 10
TIMEOUT_SECONDS = 120
TINY = [
    "dataset.train_size=240", "dataset.test_size=80", "dataset.reference_size=240", "exposure.limit=200",
    "encoder.width=4", "detector.batch_size=32", f"detector.steps={NUM_STEPS}", "generator.width=8",
    "generator.discriminator_width=8", "generator.concept_width=8", "fit.batch_size=8", f"fit.steps={NUM_STEPS}",
    f"fit.log_every_steps={NUM_STEPS}",
]


def run_check(folder: Path) -> Check:
    """folder: a scratch one, which the run fills."""
    package = str(Path(cfexplain.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CFEXPLAIN_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "cfexplain", "train", *TINY, "run_dir=run", "output_root=outputs", "--json"]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Check("ten-step run", Mark.problem, f"not done after {TIMEOUT_SECONDS} s",
                     "Look for other programs that use the machine; set runtime.num_threads")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("cfexplain: ")]
        words = (said or done.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("cfexplain: ")
        return Check("ten-step run", Mark.problem, f"exit code {done.returncode}: {words[:300]}",
                     "Mend the problems above first; then look at cfexplain train dry_run=true")
    device = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["device"]
    speeds = dict(re.findall(r"^\[(\w+)\] .* (\d+) images/s", done.stderr, re.MULTILINE))  # history.jsonl has no times
    words = ", ".join(f"{stage} {speed} images/s" for stage, speed in speeds.items())
    return Check("ten-step run", Mark.ok, f"done on {device}: {words} (tiny networks, warm-up included)")
