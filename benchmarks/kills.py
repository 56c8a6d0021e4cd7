"""Kill a small training with SIGKILL at random moments, give the same command again, and compare every bit at the end.

python benchmarks/kills.py [--kills 30] [--seed 0]

A folder is killed several times, in the detector phase, in the generator phase and during a save, then left to end.
Networks, optimisers, history.jsonl, metrics.json, split.csv and pictures must equal those of a run never killed.
Exit code 0 where all do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [
    "dataset.train_size=240", "exposure.limit=200", "dataset.test_size=80", "dataset.reference_size=240",
    "encoder.width=4", "detector.steps=120", "detector.batch_size=32", "fit.steps=60", "fit.batch_size=8",
    "fit.log_every_steps=1", "fit.image_every_steps=7", "fit.checkpoint_every_steps=5", "generator.width=8",
    "generator.discriminator_width=8", "generator.concept_width=8", "runtime=cpu",
]
PHASES = ("detector", "generator", "save")
AIMS = ("detector", "save", "generator", "save", "generator")  # of a folder's kills, one after another
CHECKPOINTS = ("detector.pt", "generator.pt", "last.pt")
FILES = ("history.jsonl", "metrics.json", "split.csv")


def start(folder: Path, cache: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cfexplain", "train", *SETTINGS, f"run_dir={folder.name}"]
    return subprocess.Popen(
        command, cwd=folder.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kill_in(aim: str, folder: Path, cache: Path, seconds: dict[str, float], chance: random.Random) -> str | None:
    """Start the run and kill it; the phase it was in then, or None where it came to its end before."""
    process = start(folder, cache)
    checkpoints, since = folder / "checkpoints", time.time()
    if aim == "save":
        time.sleep(chance.uniform(0, seconds["total"]))
        while process.poll() is None and not unfinished(checkpoints):
            pass  # a save lasts milliseconds
    else:
        while process.poll() is None and not has_begun(aim, folder, since):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, seconds[aim]))
    was_running = process.poll() is None
    process.kill()
    _, errors = process.communicate()
    if not was_running:
        if process.returncode != 0:
            sys.exit(f"{folder} failed with {process.returncode}: {errors}")
        return None
    if unfinished(checkpoints):
        return "save"
    return "generator" if (checkpoints / "detector.pt").exists() else "detector"


def has_begun(phase: str, folder: Path, since: float) -> bool:
    """Its part of the run that was started at `since`: what is written right before it is there."""
    detector, preview = folder / "checkpoints" / "detector.pt", folder / "images" / "data_preview.png"
    is_ready = preview.exists() and preview.stat().st_mtime > since
    return is_ready and (phase == "detector" or detector.exists())


def unfinished(checkpoints: Path) -> list[Path]:
    """Files of a save that is under way."""
    try:
        return [path for path in checkpoints.glob(".*.pt-*") if path.exists()]
    except FileNotFoundError:
        return []


def differences(whole: Path, killed: Path) -> list[str]:
    found = [name for name in FILES if (whole / name).read_bytes() != (killed / name).read_bytes()]
    for name in CHECKPOINTS:
        one, other = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (whole, killed))
        if not same(one, other):
            found.append(name)
    one, other = ({path.name: path.read_bytes() for path in (run / "images").iterdir()} for run in (whole, killed))
    found += [f"images/{name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return found


def same(one: object, other: object) -> bool:
    """Equal bit for bit, whatever is nested in whatever."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        outputs, cache = Path(place) / "outputs", Path(place) / "cache"
        outputs.mkdir()
        whole = outputs / "whole"
        if (process := start(whole, cache)).wait() != 0:
            sys.exit(process.stderr.read())
        seconds = json.loads((whole / "run.json").read_text())["timings_seconds"]
        hits: Counter[str] = Counter()
        unequal: list[str] = []
        while hits.total() < arguments.kills:
            killed = outputs / f"killed-{len(list(outputs.glob('killed-*')))}"
            here: list[str] = []
            for aim in AIMS[: arguments.kills - hits.total()]:
                phase = kill_in(aim, killed, cache, seconds, chance)
                here += [phase] if phase else []
            hits.update(here)
            if (process := start(killed, cache)).wait() != 0:
                sys.exit(process.stderr.read())
            found = differences(whole, killed)
            unequal += found
            print(f"{killed.name}: killed in {', '.join(here)}; differs in {', '.join(found) or 'nothing'}", flush=True)
    print(f"{hits.total()} kills: " + ", ".join(f"{hits[phase]} in {phase}" for phase in PHASES))
    print("all runs equal the one never killed" if not unequal else "NOT EQUAL")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
