"""What the tests of this folder ask of a run: its record, how far it is, its weights."""

import json
import time
from pathlib import Path

LONG = ["fit.steps=60", "fit.log_every_steps=1", "fit.image_every_steps=1000", "fit.checkpoint_every_steps=4"]
WAITING = 90.0  # seconds, for what takes ten on an idle machine


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def weights(folder: Path) -> dict:
    import torch

    return torch.load(folder / "checkpoints" / "generator.pt", weights_only=True)["generator"]


def wait_for_step(folder: Path, step: int) -> None:
    history, ends = folder / "history.jsonl", time.monotonic() + WAITING
    while not (history.exists() and f'"stage": "generator", "step": {step},' in history.read_text()):
        assert time.monotonic() < ends, f"{folder} has not come to step {step}"
        time.sleep(0.2)
