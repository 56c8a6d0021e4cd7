"""Folders of pictures of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16


def draw(folder: Path, count: int, is_grey: bool = False, suffix: str = ".png") -> None:
    """Pictures of noise, different in each folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(folder.name.encode()))
    for index in range(count):
        pixels = rng.integers(256, size=(SIDE, SIDE) if is_grey else (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}{suffix}")
