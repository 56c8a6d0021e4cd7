"""Which patch of a normal image could stand in for a patch of another one? One whose surroundings look alike.

What lies inside is not to be trusted, as it may be the defect; so patches are compared mostly by the ring around them,
as in texture synthesis (Efros and Leung, 1999; Efros and Freeman, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cfexplain.data.batches import to_float
from cfexplain.lazy import F, Tensor, torch

CELLS = 4  # a side: so finely patches are compared in the search; the place is then refined to the pixel
CHUNK = 2**22  # values in the largest tensor of a search; larger ones are slower, too
OUTSIDE = -3.0  # stands around an image: no value of one, so that an edge is compared with an edge


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

    @property
    def window(self) -> tuple[int, int]:
        """Size of a patch with its ring."""
        return self.height + 2 * self.ring, self.width + 2 * self.ring

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
        ring=0 if (height, width) == image_shape[-2:] else max(1, round(ring * min(height, width))),
        tops=tops.repeat_interleave(len(lefts)), lefts=lefts.repeat(len(tops)),
    )


def crop_indices(
    rows: Tensor, tops: Tensor, lefts: Tensor, num_channels: int, size: Sequence[int]
) -> tuple[Tensor, ...]:
    """Four indices of (N, C, H, W) images that cut (M, C, *size) out of them, each of the image at its (M,) row."""
    ys, xs = (starts[:, None] + torch.arange(side, device=rows.device)
              for starts, side in zip((tops, lefts), size, strict=True))
    channels = torch.arange(num_channels, device=rows.device)[None, :, None, None]
    return rows[:, None, None, None], channels, ys[:, None, :, None], xs[:, None, None, :]


def crops(images: Tensor, rows: Tensor, tops: Tensor, lefts: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W), in [-1, 1] or uint8, and three (M,) int64 -> (M, C, *size) in [-1, 1], OUTSIDE beyond the edges."""
    rows, channels, ys, xs = crop_indices(rows, tops, lefts, images.shape[1], size)
    height, width = images.shape[2:]
    found = images[rows, channels, ys.clamp(0, height - 1), xs.clamp(0, width - 1)]
    is_inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    return (found if images.is_floating_point() else to_float(found)).where(is_inside, OUTSIDE)


class Donors:
    """Normal images that patches are taken from, and their windows as far as they were asked for.

    images:   (D, C, H, W) uint8.
    is_fixed: a patch comes from the same place of another image, not from anywhere in it.
    interior: weight of the inside of a patch, where its surroundings weigh 1.
    shifts_brightness: a patch gets its new surroundings' mean, channel by channel.
    """

    def __init__(self, images: Tensor, is_fixed: bool, interior: float, shifts_brightness: bool) -> None:
        self.images, self.is_fixed = images, is_fixed
        self.interior, self.shifts_brightness = interior, shifts_brightness
        self._windows: dict[int, Tensor] = {}  # by the height of the grid's patches

    def patches(self, images: Tensor, rows: Tensor, places: Tensor, ranks: Tensor, grid: PatchGrid) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (M, C, h, w) for M places of the grid, each in the image at its row.

        ranks: (M,) of the donor images, by their own nearest patch: 0 is the nearest image, 1 the second nearest.
        """
        tops, lefts = (corner - grid.ring for corner in grid.corners(places))
        windows = crops(images, rows, tops, lefts, grid.window)  # (M, C, *window), around each patch
        weights = grid.weights(self.interior, images.device)
        if self.is_fixed:
            chosen = _of_rank(self._distances_in_place(windows, places, grid), ranks)
        else:
            distances, found = self._nearest_anywhere(windows, grid)  # (M, D, 2)
            chosen = _of_rank(distances, ranks)
            starts = found[torch.arange(len(chosen), device=found.device), chosen] * grid.cell - grid.ring
            tops, lefts = _refined(windows, self.images, weights, chosen, starts, grid)
        taken = crops(self.images, chosen, tops, lefts, grid.window)
        patches = taken[..., grid.ring : grid.ring + grid.height, grid.ring : grid.ring + grid.width]
        if not self.shifts_brightness:
            return patches
        ring = grid.weights(0.0, images.device) * (windows[:, :1] > OUTSIDE) * (taken[:, :1] > OUTSIDE)
        difference = ((windows - taken) * ring).sum(dim=(2, 3), keepdim=True)
        return (patches + difference / ring.sum(dim=(2, 3), keepdim=True).clamp_min(1)).clamp(-1, 1)

    def _rows(self, windows: Tensor, grid: PatchGrid) -> Tensor:
        """Cell means of (M, C, *window) windows, times the roots of their weights: (M, d)."""
        weights = F.avg_pool2d(grid.weights(self.interior, windows.device)[None], grid.cell)
        return (F.avg_pool2d(windows, grid.cell) * weights.sqrt()).flatten(1)

    def _distances_in_place(self, windows: Tensor, places: Tensor, grid: PatchGrid) -> Tensor:
        """(M, D) distances to what each donor has at the same place."""
        distances, rows = windows.new_empty(len(windows), len(self.images)), self._rows(windows, grid)
        every = torch.arange(len(self.images), device=windows.device)
        for place in places.unique():
            top, left = (corner.expand(len(every)) - grid.ring for corner in grid.corners(place))
            others = self._rows(crops(self.images, every, top, left, grid.window), grid)
            distances[places == place] = _squared_distances(rows[places == place], others)
        return distances

    def _nearest_anywhere(self, windows: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
        """(M, D) distances to the nearest window of each donor, and (M, D, 2) int64 where it begins, in cells."""
        rows, others = self._rows(windows, grid), self._all_windows(grid)
        num_right = (grid.image_width + 2 * grid.ring) // grid.cell - grid.window[1] // grid.cell + 1
        distances = rows.new_empty(len(rows), len(others))
        found = torch.empty(distances.shape, dtype=torch.long, device=rows.device)
        num_donors = max(1, CHUNK // (len(rows) * others.shape[1]))
        for start in range(0, len(others), num_donors):
            some = others[start : start + num_donors]
            nearest = _squared_distances(rows, some.flatten(0, 1)).unflatten(1, some.shape[:2]).min(dim=2)
            distances[:, start : start + num_donors] = nearest.values
            found[:, start : start + num_donors] = nearest.indices
        return distances, torch.stack([found.div(num_right, rounding_mode="floor"), found % num_right], dim=2)

    def _all_windows(self, grid: PatchGrid) -> Tensor:
        """(D, L, d): `_rows` of each window of each donor, a cell apart, row after row."""
        if grid.height not in self._windows:
            weights = F.avg_pool2d(grid.weights(self.interior, self.images.device)[None], grid.cell)  # (1, h', w')
            channel_weights = weights.expand(self.images.shape[1], -1, -1).flatten().sqrt()
            parts = []
            for images in self.images.split(16):
                framed = F.pad(to_float(images), (grid.ring,) * 4, value=OUTSIDE)
                unfolded = F.unfold(F.avg_pool2d(framed, grid.cell), weights.shape[1:]).transpose(1, 2)
                parts.append(unfolded * channel_weights)
            self._windows[grid.height] = torch.cat(parts)
        return self._windows[grid.height]


def _of_rank(distances: Tensor, ranks: Tensor) -> Tensor:
    """(M, D), (M,) -> (M,) int64, the index of the donor at each rank."""
    nearest = distances.topk(int(ranks.max()) + 1, largest=False).indices
    return nearest.gather(1, ranks[:, None])[:, 0]


def _squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """|a - b|^2: (M, d), (L, d) -> (M, L)."""
    squares = torch.addmm(others.square().sum(dim=1), rows, others.T, alpha=-2)
    return squares.add_(rows.square().sum(dim=1)[:, None])


def _refined(
    windows: Tensor, donors: Tensor, weights: Tensor, chosen: Tensor, starts: Tensor, grid: PatchGrid
) -> tuple[Tensor, Tensor]:
    """A better place near each (M, 2) start, to the pixel: the best of nine, then of nine half as far apart ..."""
    lowest = torch.tensor([-grid.ring, -grid.ring], device=starts.device)
    highest = torch.tensor([grid.image_height - grid.height, grid.image_width - grid.width]).to(lowest) + lowest
    reach = grid.cell
    while reach >= 1 and bool((lowest < highest).any()):
        steps = torch.cartesian_prod(*[torch.tensor([0, -reach, reach], device=starts.device)] * 2)  # (9, 2)
        places = (starts[:, None] + steps).maximum(lowest).minimum(highest)  # (M, 9, 2)
        distances = torch.stack([
            ((crops(donors, chosen, *place.unbind(1), grid.window) - windows).square() * weights).sum(dim=(1, 2, 3))
            for place in places.unbind(1)
        ], dim=1)
        starts = places[torch.arange(len(places), device=places.device), distances.argmin(dim=1)]
        reach //= 2
    return starts[:, 0], starts[:, 1]
