"""CutPaste: a part of a normal image pasted at another place of it (Li et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_between, check_range
from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.lazy import torch, v2

RECIPE_SIDE = 256  # pixels: side of the images that a scar's lengths are given for
MAX_TRIES = 50  # for a paste that shows: black on black does not


@dataclass(frozen=True, kw_only=True)
class Cutpaste(PseudoAnomalies):
    """Normal training images with an upright patch or a thin rotated scar of themselves, colours shaken a little."""

    min_area: float
    max_area: float
    max_aspect: float
    jitter: float
    scar_share: float
    min_scar_width: float
    max_scar_width: float
    min_scar_length: float
    max_scar_length: float
    max_rotation: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "area", 0.5)
        check_range(self, "scar_width", RECIPE_SIDE // 2)
        check_range(self, "scar_length", RECIPE_SIDE // 2)
        check_between(self, 1, 10, "max_aspect")
        check_between(self, 0, 0.5, "jitter")
        check_between(self, 0, 1, "scar_share")
        check_between(self, 0, 90, "max_rotation")

    def altered(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(C, H, W) uint8 -> the same with a patch or scar; unchanged only where no try of many shows."""
        is_scar = rng.random() < self.scar_share
        for _ in range(MAX_TRIES):
            size, angle = self._scar(image.shape[1:], rng) if is_scar else (self._patch(image.shape[1:], rng), 0.0)
            top, left = (int(rng.integers(n - part + 1)) for n, part in zip(image.shape[1:], size))
            cut = jittered(image[:, top : top + size[0], left : left + size[1]], self.jitter, rng)
            changed = paste(image, cut, angle, rng)
            if (changed != image).any():
                break
        return changed

    def _patch(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Height and width of an upright patch."""
        height, width = shape
        area = rng.uniform(self.min_area, self.max_area) * height * width
        aspect = math.exp(rng.uniform(-1, 1) * math.log(self.max_aspect))
        return _within(math.sqrt(area * aspect), height), _within(math.sqrt(area / aspect), width)

    def _scar(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[tuple[int, int], float]:
        """Length and width of a scar, and its angle in radians."""
        scale = math.sqrt(shape[0] * shape[1]) / RECIPE_SIDE
        length = rng.uniform(self.min_scar_length, self.max_scar_length) * scale
        width = rng.uniform(self.min_scar_width, self.max_scar_width) * scale
        angle = math.radians(rng.uniform(-self.max_rotation, self.max_rotation))
        return (_within(length, shape[0]), _within(width, shape[1])), angle


def paste(image: np.ndarray, cut: np.ndarray, angle: float, rng: np.random.Generator) -> np.ndarray:
    """(C, H, W) and (C, h, w) uint8 -> the image with the cut, turned by `angle`, all within it at a random place."""
    height, width = cut.shape[1:]
    cos, sin = math.cos(angle), math.sin(angle)
    box = (abs(height * cos) + abs(width * sin), abs(height * sin) + abs(width * cos))  # around the turned cut
    box = tuple(min(math.ceil(side - 1e-9), n) for side, n in zip(box, image.shape[1:]))
    top, left = (int(rng.integers(n - side + 1)) for n, side in zip(image.shape[1:], box))
    down = np.arange(box[0])[:, None] - (box[0] - 1) / 2  # from the middle of the box to the middles of its pixels
    right = np.arange(box[1]) - (box[1] - 1) / 2
    rows = np.rint(cos * down - sin * right + (height - 1) / 2).astype(int)  # the cut's pixel nearest to each
    columns = np.rint(sin * down + cos * right + (width - 1) / 2).astype(int)
    is_cut = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    changed = image.copy()
    changed[:, top : top + box[0], left : left + box[1]][:, is_cut] = cut[:, rows[is_cut], columns[is_cut]]
    return changed


def jittered(cut: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """(C, h, w) uint8, grey or RGB, with other brightness and contrast and, in colour, other saturation and hue."""
    brightness, contrast, saturation = (1 + rng.uniform(-amount, amount, 3)).tolist()
    hue = float(rng.uniform(-amount, amount))
    pixels = torch.from_numpy(np.ascontiguousarray(cut))
    pixels = v2.functional.adjust_contrast(v2.functional.adjust_brightness(pixels, brightness), contrast)
    if len(cut) == 3:
        pixels = v2.functional.adjust_hue(v2.functional.adjust_saturation(pixels, saturation), hue)
    return pixels.numpy()


def _within(length: float, most: int) -> int:
    return min(max(1, round(length)), most)
