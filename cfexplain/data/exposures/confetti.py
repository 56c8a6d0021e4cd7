"""Confetti noise: coloured and dark blurred squares on normal images (Liznerski et al., 2021, "fcdd")."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.checks import check_between, check_positive, check_range
from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.lazy import Tensor, torch

RECIPE_SIDE = 240  # pixels: side of the images that the recipe's lengths and rates are given for
BRIGHT = 127  # where a pixel is brighter, a colour is taken away instead of added, which would not show
MAX_SQUARES = 4  # of each kind on an image; the recipe's Poisson numbers are larger in 0.6 % of the images


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

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W) uint8 -> the same with confetti on them."""
        count, channels, height, width = images.shape
        scale = math.sqrt(height * width) / RECIPE_SIDE
        noise = torch.zeros(images.shape, device=images.device)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=images.device)

        for is_coloured, rate in ((True, self.coloured_rate), (False, self.dark_rate)):
            numbers = _at_least_one(rate * RECIPE_SIDE**2, uniform(count), generator)
            for square in range(MAX_SQUARES):
                y, x = (uniform(count) * height).long(), (uniform(count) * width).long()
                sides = (self.min_side + uniform(count) * (self.max_side - self.min_side)) * scale
                angles = (2 * uniform(count) - 1) * math.radians(self.max_rotation)
                colours = torch.full((count, channels), -255.0, device=images.device)
                if is_coloured:
                    shades = images[torch.arange(count, device=images.device), :, y, x].float().mean(dim=1)
                    colours = 255 * uniform(count, channels) * torch.where(shades <= BRIGHT, 1.0, -1.0)[:, None]
                coverage = blurred_squares((height, width), y, x, sides, angles, self.blur_sigma * scale)
                coverage = coverage * (numbers > square)[:, None, None]
                noise += colours[:, :, None, None] * coverage[:, None]
        return images.float().add(noise).round_().clamp_(0, 255).byte()


def blurred_squares(
    size: tuple[int, int], y: Tensor, x: Tensor, sides: Tensor, angles: Tensor, sigma: float
) -> Tensor:
    """Rotated squares of height 1 under a Gaussian blur, one an image: (N,) each -> (N, H, W).

    The Gaussian does not change under rotation, so in a square's own axes the blur is a product of error functions.
    """
    y, x, half, cos, sin = (v[:, None, None] for v in (y, x, sides / 2, angles.cos(), angles.sin()))
    down = torch.arange(size[0], device=y.device)[:, None] - y  # (N, H, 1)
    right = torch.arange(size[1], device=y.device) - x  # (N, 1, W)
    values = 1.0
    for along in (cos * right + sin * down, cos * down - sin * right):  # (N, H, W) pixels each
        first, second = (torch.erf((along + shift) / (sigma * math.sqrt(2))) for shift in (half, -half))
        values = values * (first - second) / 2
    return values


def _at_least_one(mean: float, uniform: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) Poisson numbers of that mean, given that they are not 0: one arrival before `mean`, and those after it."""
    first = -torch.log1p(uniform * math.expm1(-mean))
    return 1 + torch.poisson((mean - first).clamp_min(0), generator=generator)
