"""CutPaste: a part of a normal image pasted at another place of it (Li et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.checks import check_between, check_range
from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.lazy import Tensor, torch

RECIPE_SIDE = 256  # pixels: side of the images that a scar's lengths are given for
# Red, green and blue to brightness and two axes of colour (YIQ): a turn of these changes the hue alone.
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
FROM_YIQ = ((1.0, 0.9563, 0.6210), (1.0, -0.2721, -0.6474), (1.0, -1.1070, 1.7046))


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

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W) uint8 -> the same with a patch or scar each."""
        count, size = len(images), images.shape[2:]

        def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator, device=images.device)

        scale = math.sqrt(size[0] * size[1]) / RECIPE_SIDE
        areas = uniform(self.min_area, self.max_area) * size[0] * size[1]
        aspects = (uniform(-1, 1) * math.log(self.max_aspect)).exp()
        lengths = uniform(self.min_scar_length, self.max_scar_length) * scale
        widths = uniform(self.min_scar_width, self.max_scar_width) * scale
        angles = uniform(-1, 1) * math.radians(self.max_rotation)
        is_scar = uniform() < self.scar_share
        heights = torch.where(is_scar, lengths, (areas * aspects).sqrt()).round().clamp(1, size[0])
        widths = torch.where(is_scar, widths, (areas / aspects).sqrt()).round().clamp(1, size[1])
        places = torch.stack([uniform() for _ in range(4)])  # of the cut and of the paste
        cuts, is_cut = pasted(images, heights, widths, torch.where(is_scar, angles, 0.0), places)
        shakes = torch.stack([uniform(-self.jitter, self.jitter) for _ in range(4)])
        return torch.where(is_cut[:, None], jittered(cuts, is_cut, shakes), images)


def pasted(
    images: Tensor, heights: Tensor, widths: Tensor, angles: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Where a turned cut lies on its image, and its pixels there: (N, C, H, W) uint8, (N, H, W) bool.

    heights, widths: (N,) of the upright cut, whole pixels; angles: (N,) in radians; places: (4, N) in [0, 1), where in
    the image, as a share of the room there is, the cut is taken (y, x) and pasted (y, x).
    """
    count, channels, height, width = images.shape
    cos, sin = angles.cos(), angles.sin()
    tall, wide = (heights * cos).abs() + (widths * sin).abs(), (heights * sin).abs() + (widths * cos).abs()
    tall, wide = (tall - 1e-4).ceil().clamp_max(height), (wide - 1e-4).ceil().clamp_max(width)  # around the turned cut
    room = torch.stack([height - heights, width - widths, height - tall, width - wide])
    top, left, down, right = (places * (room + 1)).floor()[:, :, None, None]
    ys, xs = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    heights, widths, tall, wide, cos, sin = (v[:, None, None] for v in (heights, widths, tall, wide, cos, sin))
    ys, xs = ys - down - (tall - 1) / 2, xs - right - (wide - 1) / 2  # from the middle of the paste
    rows = (cos * ys - sin * xs + (heights - 1) / 2).round()  # the cut's pixel nearest to each
    columns = (sin * ys + cos * xs + (widths - 1) / 2).round()
    is_cut = (rows >= 0) & (rows < heights) & (columns >= 0) & (columns < widths)
    places = ((top + rows).clamp(0, height - 1) * width + (left + columns).clamp(0, width - 1)).long()
    cuts = images.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, channels, -1))
    return cuts.view(images.shape), is_cut


def jittered(images: Tensor, among: Tensor, shakes: Tensor) -> Tensor:
    """(N, C, H, W) uint8 with other brightness and contrast and, in colour, other saturation and hue; uint8.

    among: (N, H, W) bool, the pixels whose mean is the grey that contrast is about.
    shakes: (4, N), by how much brightness, contrast and saturation are multiplied beyond 1, and a hue's turn.
    """
    brightness, contrast, saturation, hue = shakes[:, :, None, None, None]
    pixels = images.float() * (1 + brightness)
    weights = among[:, None].float()
    total = (pixels.mean(dim=1, keepdim=True) * weights).sum(dim=(2, 3), keepdim=True)
    grey = total / weights.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    pixels = grey + (1 + contrast) * (pixels - grey)
    if images.shape[1] == 3:
        y, i, q = torch.einsum("ac,nchw->anhw", torch.tensor(TO_YIQ, device=images.device), pixels)
        cos, sin = ((1 + saturation) * turn for turn in ((2 * math.pi * hue).cos(), (2 * math.pi * hue).sin()))
        turned = torch.stack([y, cos[:, 0] * i - sin[:, 0] * q, sin[:, 0] * i + cos[:, 0] * q])
        pixels = torch.einsum("ca,anhw->nchw", torch.tensor(FROM_YIQ, device=images.device), turned)
    return pixels.round_().clamp_(0, 255).byte()
