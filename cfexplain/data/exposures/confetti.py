"""Confetti noise: coloured and dark blurred squares on normal images (Liznerski et al., 2021, "fcdd")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_between, check_positive, check_range
from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.lazy import torch

RECIPE_SIDE = 240  # pixels: side of the images that the recipe's lengths and rates are given for
BRIGHT = 127  # where a pixel is brighter, a colour is taken away instead of added, which would not show
REACH = 3.0  # blurred edges are drawn as far out as so many sigma


@dataclass(frozen=True, kw_only=True)
class Confetti(PseudoAnomalies):
    """Normal training images with squares on them; all lengths in pixels of a 240 px image, and they scale."""

    coloured_rate: float
    dark_rate: float
    min_side: float
    max_side: float
    max_rotation: float
    blur_sigma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("coloured_rate", "dark_rate"):
            if not 0 < getattr(self, name) < 0.01:
                raise ValueError(f"{name} must lie between 0 and 0.01 squares a pixel, got {getattr(self, name)}")
        check_range(self, "side", RECIPE_SIDE)
        check_between(self, 0, 180, "max_rotation")
        check_positive(self, "blur_sigma")

    def altered(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(C, H, W) uint8 -> the same with confetti on it."""
        channels, height, width = image.shape
        noise = np.zeros(image.shape, dtype=np.float32)
        scale = math.sqrt(height * width) / RECIPE_SIDE
        for is_coloured, rate in ((True, self.coloured_rate), (False, self.dark_rate)):
            for _ in range(_at_least_one(rate * RECIPE_SIDE**2, rng)):
                y, x = rng.integers(height), rng.integers(width)
                side = rng.uniform(self.min_side, self.max_side) * scale
                angle = math.radians(rng.uniform(-self.max_rotation, self.max_rotation))
                colour = np.full(channels, -255.0)
                if is_coloured:
                    colour = rng.uniform(0, 255, channels) * (1 if image[:, y, x].mean() <= BRIGHT else -1)
                (ys, xs), coverage = blurred_square((height, width), (y, x), side, angle, self.blur_sigma * scale)
                noise[:, ys, xs] += colour[:, None, None].astype(np.float32) * coverage
        return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def blurred_square(
    size: tuple[int, int], centre: tuple[int, int], side: float, angle: float, sigma: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A rotated square of height 1 under a Gaussian blur: the rows and columns it reaches, and its (h, w) values there.

    The Gaussian does not change under rotation, so in the square's own axes the blur is a product of error functions.
    """
    reach = side / math.sqrt(2) + REACH * sigma
    window = [(max(0, math.floor(c - reach)), min(n, math.ceil(c + reach) + 1)) for c, n in zip(centre, size)]
    down, right = (np.arange(*ends, dtype=np.float32) - c for ends, c in zip(window, centre))
    cos, sin = math.cos(angle), math.sin(angle)
    values = np.ones(1, dtype=np.float32)
    for along in (cos * right + sin * down[:, None], cos * down[:, None] - sin * right):  # (h, w) pixels each
        edges = (torch.from_numpy((along + shift).astype(np.float32)) / (sigma * math.sqrt(2))
                 for shift in (side / 2, -side / 2))
        first, second = (torch.erf(edge).numpy() for edge in edges)
        values = values * (first - second) / 2
    return tuple(slice(*ends) for ends in window), values  # type: ignore[return-value]


def _at_least_one(mean: float, rng: np.random.Generator) -> int:
    """A Poisson number of that mean, given that it is not 0: one arrival before `mean`, and those that follow it."""
    first = -math.log1p(-rng.random() * -math.expm1(-mean))
    return 1 + int(rng.poisson(max(0.0, mean - first)))
