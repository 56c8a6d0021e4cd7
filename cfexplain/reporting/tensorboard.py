"""Scalars and pictures of a training run for TensorBoard (the extra `tensorboard`), in <run>/tensorboard.

They are those of history.jsonl. A run that is continued writes them anew from there, so that no step is there twice and
none is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cfexplain.errors import ConfigError
from cfexplain.lazy import tensorboard
from cfexplain.reporting.live import NO_VALUES
from cfexplain.types import Tick

FOLDER = "tensorboard"
PICTURES = "counterfactuals"
MISSING = "tensorboard=true needs the package tensorboard: pip install tensorboard, or leave tensorboard=true out"


def check_tensorboard() -> None:
    """ConfigError where the package is not installed; nothing is loaded."""
    if find_spec("tensorboard") is None:
        raise ConfigError(MISSING)


class TensorBoard:
    """A watcher (reporting/console.py). folder: of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: tensorboard.SummaryWriter | None = None
        self._num_ticks = 0

    def begin(self, ticks: Sequence[Mapping[str, Any]], stage: str, step: int) -> None:
        if self._writer is not None and len(ticks) == self._num_ticks:
            return  # the next stage of this process
        if self._writer is not None:
            self._writer.close()
        # purge_step: what earlier files hold is forgotten. Deleted, they would stop a TensorBoard that is reading them.
        self._writer = tensorboard.SummaryWriter(str(self.folder / FOLDER), purge_step=0)
        for tick in ticks:
            values = {name: value for name, value in tick.items() if name not in NO_VALUES}
            self._add(tick["stage"], tick["step"], values)
        self._num_ticks = len(ticks)
        for file, drawn_at in _pictures(self.folder) if stage == "generator" else ():
            if drawn_at <= step:  # a later one is drawn again
                self.picture(file, drawn_at)
        self._writer.flush()

    def tick(self, tick: Tick, eta_seconds: float | None) -> None:
        self._add(tick.stage, tick.step, tick.values)
        self._num_ticks += 1
        self._writer.flush()  # type: ignore[union-attr]  # begin comes first

    def picture(self, file: Path, step: int) -> None:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image(PICTURES, pixels, step, dataformats="HWC")  # type: ignore[union-attr]
        self._writer.flush()  # type: ignore[union-attr]

    def _add(self, stage: str, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{stage}/{name}", value, step)  # type: ignore[union-attr]


def _pictures(folder: Path) -> list[tuple[Path, int]]:
    """With the step at which each was drawn, in that order."""
    found = [(file, re.fullmatch(r"counterfactuals-(\d+)", file.stem)) for file in (folder / "images").glob("*.png")]
    return sorted(((file, int(match[1])) for file, match in found if match), key=lambda pair: pair[1])
