"""A region of a normal image pushed to one side, as a bent tip or a dent is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.data.exposures.blobs import Blobs, Draws
from cfexplain.lazy import F, Tensor, torch


@dataclass(frozen=True, kw_only=True)
class Dents(Blobs):
    """Regions as those of blobs. max_warp: how far their pixels are moved, as a share of the side, at most, and
    min_strength: of that, at least."""

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W) uint8 -> the same with a region each."""
        draws = Draws(len(images), generator)
        regions = self.regions(images, draws)[..., None]
        distances, angles = 2 * self.max_warp * draws.uniform(self.min_strength, 1.0), draws.uniform(0, 2 * math.pi)
        moves = torch.stack([distances * angles.cos(), distances * angles.sin()], dim=1)[:, None, None]
        identity = torch.eye(2, 3, device=images.device).expand(len(images), -1, -1)
        grid = F.affine_grid(identity, [*images.shape], align_corners=False) + regions * moves
        moved = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
        return moved.round_().clamp_(0, 255).byte()
