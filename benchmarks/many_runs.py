"""Many runs started at once into one output root: a folder each, all complete, none mixed with another.

    python benchmarks/many_runs.py [--runs 32]

Every run has the same command but its seed. Whole means: status done, each file of the contract there, the seed in
config.yaml its own, as many ticks in the history as it trained for, and `latest.txt` naming one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "dataset.train_size=240", "dataset.test_size=80", "dataset.reference_size=240", "exposure.limit=200",
    "encoder.width=4", "detector.batch_size=32", "detector.steps=30", "generator.width=8",
    "generator.discriminator_width=8", "generator.concept_width=8", "fit.batch_size=8", "fit.steps=6",
    "fit.log_every_steps=2", "fit.checkpoint_every_steps=2", "runtime=cpu", "output_root=outputs",
]
FILES = ("config.yaml", "history.jsonl", "metrics.json", "split.csv", "cfexplain.log", "checkpoints/detector.pt",
         "checkpoints/generator.pt", "checkpoints/last.pt", "images/counterfactuals.png", "images/data_preview.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=32)
    num_runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        place, started = Path(name), time.monotonic()
        codes = start_all(place, num_runs)
        seconds = time.monotonic() - started
        folders = sorted(path.parent for path in place.glob("outputs/train/*/*/run.json"))
        problems = [f"exit codes {sorted(set(codes))}"] if any(codes) else []
        problems += [] if len(folders) == num_runs else [f"{len(folders)} folders"]
        seeds = [json.loads((folder / "run.json").read_text())["seed"] for folder in folders]
        problems += [] if sorted(seeds) == list(range(num_runs)) else [f"seeds {sorted(seeds)}"]
        problems += [text for folder, seed in zip(folders, seeds, strict=True) for text in wrong_in(folder, seed)]
        latest = (place / "outputs/latest.txt").read_text().split(" ", 1)[1].strip()
        is_known = (place / latest).resolve() in [folder.resolve() for folder in folders]
        problems += [] if is_known else [f"latest.txt names {latest}"]
    print(f"{num_runs} runs started at once on {os.cpu_count()} cores: {len(folders)} folders, {seconds:.0f} s; "
          f"{'all complete' if not problems else '; '.join(problems)}")
    return 1 if problems else 0


def start_all(place: Path, num_runs: int) -> list[int]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(place / "cache"),
                   "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cfexplain", "train", *SETTINGS]
    runs = [
        subprocess.Popen([*command, f"seed={seed}"], cwd=place, env=environment, stdout=subprocess.DEVNULL)
        for seed in range(num_runs)
    ]
    return [run.wait() for run in runs]


def wrong_in(folder: Path, seed: int) -> list[str]:
    found = [f"{folder.name} lacks {name}" for name in FILES if not (folder / name).stat().st_size]
    if (status := json.loads((folder / "run.json").read_text())["status"]) != "done":
        found.append(f"{folder.name} is {status}")
    if f"\nseed: {seed}\n" not in (folder / "config.yaml").read_text():
        found.append(f"{folder.name} holds another run's config.yaml")
    ticks = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    if [tick["step"] for tick in ticks if tick["stage"] == "generator"] != [2, 4, 6]:
        found.append(f"{folder.name} has another history")
    return found


if __name__ == "__main__":
    sys.exit(main())
