"""Thin bent lines on normal images, brighter or darker than what they cross."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.checks import check_between, check_range
from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.data.exposures.blobs import Draws
from cfexplain.lazy import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class Scratches(PseudoAnomalies):
    """Lengths and widths are shares of the image's height; contrasts are levels of 255, up or down.

    max_bend:     how far a scratch leaves its straight line, as a share of its length.
    object_share: of the scratches, whose middle lies where the image is not of its most common shade.
    """

    min_length: float
    max_length: float
    min_width: float
    max_width: float
    min_contrast: float
    max_contrast: float
    max_bend: float
    object_share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "length", 1)
        check_range(self, "width", 0.5)
        check_range(self, "contrast", 255)
        check_between(self, 0, 1, "max_bend", "object_share")

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W) uint8 -> the same with a scratch each."""
        draws, (height, width) = Draws(len(images), generator), images.shape[2:]

        def of_each(values: Tensor) -> Tensor:
            return values[:, None, None]

        middles = draws.places(images, self.object_share)
        ys = torch.arange(height, device=images.device)[:, None] - of_each(middles // width)
        xs = torch.arange(width, device=images.device) - of_each(middles % width)
        angles = of_each(draws.uniform(0, math.pi))
        lengths = of_each(draws.uniform(self.min_length, self.max_length)) * height
        widths = of_each(draws.uniform(self.min_width, self.max_width)) * height
        bends = of_each(draws.uniform(-self.max_bend, self.max_bend))
        along, across = angles.cos() * xs + angles.sin() * ys, angles.cos() * ys - angles.sin() * xs
        across = across + 4 * bends * along.square() / lengths
        opacity = ((widths / 2 - across.abs()) + 0.5).clamp(0, 1) * ((lengths / 2 - along.abs()) + 0.5).clamp(0, 1)
        signs = torch.where(draws.uniform() < 0.5, 1.0, -1.0)
        contrasts = of_each(signs * draws.uniform(self.min_contrast, self.max_contrast))
        return (images.float() + (opacity * contrasts)[:, None]).round_().clamp_(0, 255).byte()
