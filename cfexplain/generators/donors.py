"""Which patch of a normal image could stand in the place of a patch of another image? One whose surroundings look alike.

What lies inside is not to be trusted, as it may be the defect; so patches are compared mostly by the ring around them,
as in texture synthesis (Efros and Leung, 1999; Efros and Freeman, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cfexplain.data.batches import to_float
from cfexplain.lazy import F, Tensor, torch

CELLS = 8  # a side: so finely a patch is compared where donors are searched for
SEARCH_STRIDE = 2  # cells
OUTSIDE = -3.0  # stands around an image: no value of one, so that an edge is compared with an edge
CHUNK = 2**22  # values in the largest tensor of a search: larger ones are slower, too


@dataclass(frozen=True, kw_only=True)
class PatchGrid:
    """Places of patches of one size on images of one size, all in pixels.

    height, width: of a patch; ring: what is seen around it on each side; tops, lefts: (P,) int64.
    """

    image_height: int
    image_width: int
    height: int
    width: int
    ring: int
    tops: Tensor
    lefts: Tensor

    def __len__(self) -> int:
        return len(self.tops)

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def corners(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tops and lefts of (M,) places."""
        return self.tops.to(places.device)[places], self.lefts.to(places.device)[places]

    @property
    def cell(self) -> int:
        """Side of what counts as one value in a coarse comparison."""
        return max(1, min(self.height, self.width) // CELLS)

    def weights(self, interior: float, device: torch.device) -> Tensor:
        """(h + 2 ring, w + 2 ring): 1 around the patch, `interior` inside it."""
        weights = torch.ones(self.height + 2 * self.ring, self.width + 2 * self.ring, device=device)
        weights[self.ring : self.ring + self.height, self.ring : self.ring + self.width] = interior
        return weights

    def blending(self, feather: int) -> Tensor:
        """(P, 1, h, w) in (0, 1]: 1 within, rising over `feather` pixels from each edge that is not the image's."""
        ends = torch.stack([self.tops, self.image_height - self.height - self.tops, self.lefts,
                            self.image_width - self.width - self.lefts])  # (4, P) pixels to the image's edges
        down, right = (torch.arange(1, side + 1) for side in (self.height, self.width))
        steps = [down, down.flip(0), right, right.flip(0)]
        ramps = [(step / (feather + 1)).clamp_max(1).expand(len(self), -1).where(end[:, None] > 0, 1.0)
                 for step, end in zip(steps, ends, strict=True)]
        return (ramps[0] * ramps[1])[:, None, :, None] * (ramps[2] * ramps[3])[:, None, None, :]


def patch_grid(image_shape: tuple[int, ...], share: float, stride: float, ring: float) -> PatchGrid:
    """share: of the image's sides; stride and ring: of the patch's sides. The last row and column reach the edge."""
    height, width = (max(1, round(share * side)) for side in image_shape[-2:])
    tops, lefts = (
        torch.tensor(sorted({*range(0, side - part + 1, max(1, round(stride * part))), side - part}))
        for side, part in zip(image_shape[-2:], (height, width), strict=True)
    )
    return PatchGrid(
        image_height=image_shape[-2], image_width=image_shape[-1], height=height, width=width,
        ring=max(1, round(ring * min(height, width))),
        tops=tops.repeat_interleave(len(lefts)), lefts=lefts.repeat(len(tops)),
    )


def framed(images: Tensor, ring: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H + 2 ring, W + 2 ring), with OUTSIDE around."""
    return F.pad(images, (ring,) * 4, value=OUTSIDE)


def crops(images: Tensor, rows: Tensor, tops: Tensor, lefts: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) and three (M,) int64 -> (M, C, *size), each cut out of the image at its row."""
    return images[crop_indices(rows, tops, lefts, images.shape[1], size)]


def crop_indices(
    rows: Tensor, tops: Tensor, lefts: Tensor, num_channels: int, size: Sequence[int]
) -> tuple[Tensor, ...]:
    """What `crops` cuts out, as four indices of (N, C, H, W) images."""
    ys, xs = (starts[:, None] + torch.arange(side, device=rows.device)
              for starts, side in zip((tops, lefts), size, strict=True))
    channels = torch.arange(num_channels, device=rows.device)[None, :, None, None]
    return rows[:, None, None, None], channels, ys[:, None, :, None], xs[:, None, None, :]


@dataclass(frozen=True, kw_only=True)
class Donors:
    """Normal images that patches are taken from.

    images:   (D, C, H, W) uint8.
    is_fixed: a patch comes from the same place of another image, not from anywhere in it.
    interior: weight of the inside of a patch, where its surroundings weigh 1.
    shifts_brightness: a patch gets its new surroundings' mean, channel by channel.
    """

    images: Tensor
    is_fixed: bool
    interior: float
    shifts_brightness: bool

    def patches(self, images: Tensor, rows: Tensor, places: Tensor, ranks: Tensor, grid: PatchGrid) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (M, C, h, w) for M places of the grid, each in the image at its row.

        ranks: (M,) of the donor images, by their own nearest patch: 0 is the nearest image, 1 the second nearest.
        """
        size = (grid.height + 2 * grid.ring, grid.width + 2 * grid.ring)
        tops, lefts = grid.corners(places)
        windows = crops(framed(images, grid.ring), rows, tops, lefts, size)  # (M, C, *size), around each patch
        weights, donors = grid.weights(self.interior, images.device), framed(to_float(self.images), grid.ring)
        if self.is_fixed:
            chosen = _of_rank(_distances_in_place(windows, donors, weights, places, grid), ranks)
        else:
            distances, found = _nearest_anywhere(windows, donors, weights, grid.cell)  # (M, D, 2)
            chosen = _of_rank(distances, ranks)
            starts = found[torch.arange(len(chosen), device=found.device), chosen] * (SEARCH_STRIDE * grid.cell)
            tops, lefts = _refined(windows, donors, weights, chosen, starts, grid.cell)
        taken = crops(donors, chosen, tops, lefts, size)
        patches = taken[..., grid.ring : grid.ring + grid.height, grid.ring : grid.ring + grid.width]
        if not self.shifts_brightness:
            return patches
        ring = grid.weights(0.0, images.device) * (windows[:, :1] > OUTSIDE) * (taken[:, :1] > OUTSIDE)
        shift = ((windows - taken) * ring).sum(dim=(2, 3), keepdim=True) / ring.sum(dim=(2, 3), keepdim=True).clamp_min(1)
        return (patches + shift).clamp(-1, 1)


def _of_rank(distances: Tensor, ranks: Tensor) -> Tensor:
    """(M, D), (M,) -> (M,) int64, the index of the donor at each rank."""
    nearest = distances.topk(int(ranks.max()) + 1, largest=False).indices
    return nearest.gather(1, ranks[:, None])[:, 0]


def _coarse(windows: Tensor, weights: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Cell means of (M, C, h, w) windows as (M, d) rows, and the (d,) weight of each value."""
    rows = F.avg_pool2d(windows, cell).flatten(1)
    return rows, F.avg_pool2d(weights[None], cell).expand(windows.shape[1], -1, -1).flatten()


def _squared_distances(rows: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """sum_i w_i (a_i - b_i)^2: (M, d), (L, d), (d,) -> (M, L)."""
    weighted = others * weights
    return torch.addmm((others * weighted).sum(dim=1), rows, weighted.T, alpha=-2) + (rows.square() @ weights)[:, None]


def _distances_in_place(
    windows: Tensor, donors: Tensor, weights: Tensor, places: Tensor, grid: PatchGrid
) -> Tensor:
    """(M, D) distances to what each donor has at the same place."""
    size, distances = windows.shape[2:], windows.new_empty(len(windows), len(donors))
    rows, value_weights = _coarse(windows, weights, grid.cell)
    for place in places.unique().tolist():
        top, left, is_here = int(grid.tops[place]), int(grid.lefts[place]), places == place
        others, _ = _coarse(donors[:, :, top : top + size[0], left : left + size[1]], weights, grid.cell)
        distances[is_here] = _squared_distances(rows[is_here], others, value_weights)
    return distances


def _nearest_anywhere(windows: Tensor, donors: Tensor, weights: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """(M, D) distances to the nearest window of each donor, and (M, D, 2) int64 where it begins, in search strides."""
    rows, value_weights = _coarse(windows, weights, cell)
    small, size = F.avg_pool2d(donors, cell), [side // cell for side in windows.shape[2:]]
    down, right = ((side - part) // SEARCH_STRIDE + 1 for side, part in zip(small.shape[2:], size, strict=True))
    distances = windows.new_empty(len(windows), len(donors))
    found = torch.empty(distances.shape, dtype=torch.long, device=windows.device)
    num_donors = max(1, CHUNK // (down * right * rows.shape[1]))
    num_rows = max(1, CHUNK // (num_donors * down * right))
    for start in range(0, len(donors), num_donors):
        others = F.unfold(small[start : start + num_donors], size, stride=SEARCH_STRIDE).transpose(1, 2).flatten(0, 1)
        for first in range(0, len(rows), num_rows):
            of_some = _squared_distances(rows[first : first + num_rows], others, value_weights)
            nearest = of_some.unflatten(1, (-1, down * right)).min(dim=2)
            distances[first : first + num_rows, start : start + num_donors] = nearest.values
            found[first : first + num_rows, start : start + num_donors] = nearest.indices
    return distances, torch.stack([found.div(right, rounding_mode="floor"), found % right], dim=2)


def _refined(
    windows: Tensor, donors: Tensor, weights: Tensor, chosen: Tensor, starts: Tensor, reach: int
) -> tuple[Tensor, Tensor]:
    """A better place near each (M, 2) start, to the pixel: the best of nine, then of nine half as far apart, and so on."""
    size = windows.shape[2:]
    ends = torch.tensor([donors.shape[2] - size[0], donors.shape[3] - size[1]], device=starts.device)
    while reach >= 1:
        steps = torch.cartesian_prod(*[torch.tensor([0, -reach, reach], device=starts.device)] * 2)  # (9, 2)
        places = (starts[:, None] + steps).clamp_min(0).minimum(ends)  # (M, 9, 2)
        distances = torch.stack([
            ((crops(donors, chosen, *places[:, i].unbind(1), size) - windows).square() * weights).sum(dim=(1, 2, 3))
            for i in range(len(steps))
        ], dim=1)
        starts = places[torch.arange(len(places), device=places.device), distances.argmin(dim=1)]
        reach //= 2
    return starts[:, 0], starts[:, 1]
