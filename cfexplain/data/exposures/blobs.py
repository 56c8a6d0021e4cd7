"""Regions of irregular, soft outline on normal images, filled with what does not belong there.

The outline is thresholded noise, as in DRAEM (Zavrtanik et al., 2021), around a place of the part and stretched at
random, so that it looks like a stain, a dent or a scratch. The filling is another image, another place of the same
image, another shade, or the image itself, warped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.checks import check_at_least, check_between, check_range
from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.lazy import F, Tensor, torch

FILLINGS = 4
NOISE_CELLS = (4, 8, 16)  # a side of the noise before it is enlarged: an image draws one
MAX_SOFTNESS = 0.5  # width of the outline, as a share of the noise's standard deviation


@dataclass(frozen=True, kw_only=True)
class Blobs(PseudoAnomalies):
    """Areas are shares of the image.

    max_aspect:   how far a region is stretched: from round to a line so many times as long as wide.
    roughness:    how much the noise counts against the distance from the region's middle; 0: ellipses.
    object_share: of the regions, whose middle lies where the image is not of its most common shade.
    min_strength: of the filling over the image, which is drawn up to 1.
    max_warp:     how far a warp moves a pixel, as a share of the side.
    """

    min_area: float
    max_area: float
    max_aspect: float
    roughness: float
    object_share: float
    min_strength: float
    max_warp: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "area", 0.5)
        check_at_least(self, max_aspect=1, roughness=0)
        check_between(self, 0, 1, "object_share", "min_strength")
        check_between(self, 0, 0.5, "max_warp")

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W) uint8 -> the same with a region each."""
        draws = Draws(len(images), generator)
        pixels, filling = images.float(), self.fillings(images, draws)
        opacity = self.regions(images, draws)[:, None] * draws.uniform(self.min_strength, 1.0)[:, None, None, None]
        return (pixels + opacity * (filling - pixels)).round_().clamp_(0, 255).byte()

    def regions(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, H, W) in [0, 1]: 1 within, 0 outside, in between along the outline."""
        count, _, height, width = images.shape
        middles = draws.places(images, self.object_share)
        ys = torch.arange(height, device=images.device)[:, None] / height - (middles // width)[:, None, None] / height
        xs = torch.arange(width, device=images.device) / width - (middles % width)[:, None, None] / width
        areas = draws.uniform(math.log(self.min_area), math.log(self.max_area)).exp()
        aspects = (draws.uniform() * math.log(self.max_aspect)).exp()
        angles = draws.uniform(0, math.pi)
        cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
        long, short = cos * xs + sin * ys, cos * ys - sin * xs
        distances = ((long.square() / aspects[:, None, None]) + short.square() * aspects[:, None, None]).sqrt()
        heights = self.roughness * draws.noise(height, width) - distances / (areas / math.pi).sqrt()[:, None, None]
        ranked = heights.flatten(1).sort(dim=1).values
        edges = ranked.gather(1, ((1 - areas) * (height * width - 1)).long()[:, None])[:, :, None]
        softness = draws.uniform(0.02, MAX_SOFTNESS)[:, None, None]
        return ((heights - edges) / softness + 0.5).clamp(0, 1)

    def fillings(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, C, H, W) float, 0 to 255: one of the four each."""
        pixels, (height, width) = images.float(), images.shape[2:]
        down, right = (draws.uniform(0.1, 0.9)[:, None, None] for _ in range(2))  # to another place
        ys = torch.arange(height, device=images.device)[:, None] + (down * height).long()
        xs = torch.arange(width, device=images.device) + (right * width).long()
        places = ((ys % height) * width + xs % width).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        elsewhere = pixels.flatten(2).gather(2, places).view(images.shape)
        another = pixels.roll(1, dims=0)
        shade = draws.uniform(0, 255)[:, None, None, None] + 20 * draws.noise(height, width)[:, None]
        moves = torch.stack([draws.noise(height, width) for _ in range(2)], dim=3)
        identity = torch.eye(2, 3, device=images.device).expand(len(images), -1, -1)
        grid = F.affine_grid(identity, [*images.shape], align_corners=False)
        warped = F.grid_sample(pixels, grid + 2 * self.max_warp * moves, padding_mode="reflection", align_corners=False)
        kind = (draws.uniform() * FILLINGS).long()[:, None, None, None]
        return torch.where(kind == 0, another, torch.where(kind == 1, elsewhere, torch.where(kind == 2, shade, warped)))


class Draws:
    """Random numbers for each of N images, on the generator's device."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator, self.device = count, generator, generator.device

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N,)."""
        return low + (high - low) * torch.rand(self.count, generator=self.generator, device=self.device)

    def noise(self, height: int, width: int) -> Tensor:
        """(N, H, W) smooth noise of standard deviation about 1, each image's at one of the sizes of NOISE_CELLS."""
        fields = [torch.randn(self.count, 1, cells, cells, generator=self.generator, device=self.device)
                  for cells in NOISE_CELLS]
        smooth = torch.cat([F.interpolate(field, (height, width), mode="bicubic") for field in fields], dim=1)
        chosen = (self.uniform() * len(NOISE_CELLS)).long()
        return smooth[torch.arange(self.count, device=self.device), chosen]

    def places(self, images: Tensor, object_share: float) -> Tensor:
        """(N,) a pixel's number in its image: anywhere, or where the image is not of its median shade."""
        grey = images.float().mean(dim=1).flatten(1)
        differs = (grey - grey.median(dim=1, keepdim=True).values).square()
        differs = differs / differs.sum(dim=1, keepdim=True).clamp_min(1)
        weights = object_share * differs + (1 - object_share) / grey.shape[1]
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]
