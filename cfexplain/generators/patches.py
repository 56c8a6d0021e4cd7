"""Counterfactuals without a trained generator: patches that the detector objects to are replaced by real normal ones.

The detector is asked, not differentiated: it says by how much each patch, replaced alone, lowers an image's score. The
patch that helps most for its side is replaced first, and so on, until the image scores like a normal one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cfexplain.checks import check_at_least, check_between, check_positive
from cfexplain.data.batches import to_float, to_uint8
from cfexplain.engine.seeding import derived_seed
from cfexplain.errors import ConfigError
from cfexplain.generators.base import UntrainedGeneratorSpec
from cfexplain.generators.donors import crop_indices, Donors, patch_grid, PatchGrid
from cfexplain.lazy import nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape, Splits

ASKED_AT_ONCE = 256  # images a forward pass of the detector
MATCHED_AT_ONCE = 4096  # patches in one search for donors
REPAIRED_AT_ONCE = 32  # images side by side


class Place(Enum):
    same = "same"
    anywhere = "anywhere"


@dataclass(frozen=True, kw_only=True)
class Patches(UntrainedGeneratorSpec):
    """Concept k takes the patch of the k-th nearest normal image.

    sizes: sides of the patches, as shares of the image's; all compete.
    stride, ring, feather: step between patches, what is compared around one and what is blended within its edges, as
        shares of its side.
    interior_weight: of a patch's inside in the comparison, where its ring weighs 1.
    num_tried: places that are matched and scored anew after each replacement.
    level: a repair ends at this quantile of the held-out normals' logits, or at the detector's threshold if that is
        lower; an image that does not get there stays as near as it came.
    """

    sizes: tuple[float, ...]
    stride: float
    ring: float
    feather: float
    interior_weight: float
    place: Place
    match_brightness: bool
    max_patches: int
    num_tried: int
    num_donors: int
    level: float

    def __post_init__(self) -> None:
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            raise ValueError(f"sizes must be one share of the image's side or more, each at most 1, got {self.sizes}")
        check_positive(self, "stride", "ring")
        check_between(self, 0, 0.5, "feather")
        check_between(self, 0, 1, "stride", "interior_weight", "level")
        check_at_least(self, max_patches=1, num_tried=1, num_donors=1)

    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        return PatchGenerator(self, image_shape)

    def fit(
        self, generator: nn.Module, splits: Splits, held_out_logits: Tensor, num_concepts: int, seed: int
    ) -> None:
        if (num_donors := min(self.num_donors, len(splits.train))) < num_concepts:
            raise ConfigError(
                f"each of the {num_concepts} concepts takes another donor, and there are {num_donors}: fewer "
                "fit.num_concepts, more generator.num_donors or more normal images"
            )
        rng = torch.Generator().manual_seed(derived_seed(seed, "donors"))
        drawn = torch.randperm(len(splits.train), generator=rng)[:num_donors].sort().values
        generator.donors = splits.train.images[drawn].clone()
        generator.goal = held_out_logits.quantile(self.level)


class PatchGenerator(nn.Module):
    """G(x, alpha, k) for alpha = 0; for any other alpha, and where x is normal already, x itself comes back.

    donors: (D, C, H, W) uint8, normal training images; goal: (), the logit that ends a repair.
    """

    donors: Tensor
    goal: Tensor

    def __init__(self, spec: Patches, image_shape: ImageShape) -> None:
        super().__init__()
        self.spec = spec
        self.grids = [patch_grid(image_shape, size, spec.stride, spec.ring) for size in spec.sizes]
        self.register_buffer("donors", torch.zeros(0, *image_shape, dtype=torch.uint8))
        self.register_buffer("goal", torch.tensor(0.0))

    def ask(self, logits: Callable[[Tensor], Tensor], threshold: float) -> None:
        """logits: of (N, C, H, W) images in [-1, 1]; an image at or below the threshold is normal."""
        self._logits, self._threshold = logits, threshold

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """There may be fewer normal images than donors are wanted."""
        self.donors = self.donors.new_zeros(len(state_dict[f"{prefix}donors"]), *self.donors.shape[1:])
        super()._load_from_state_dict(state_dict, prefix, *args)

    @no_grad
    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], (N,) bins, (N,) concepts -> (N, C, H, W), what is changed rounded to 8 bit."""
        edited, logits = images.clone(), self._all_logits(images)
        is_open, donors = (alpha_bins == 0) & (logits > self._threshold), self._donors()
        for rows in is_open.nonzero().flatten().split(REPAIRED_AT_ONCE):
            if len(rows):
                edited[rows] = self._repaired(images[rows], logits[rows], concepts[rows], donors)
        return edited

    def _all_logits(self, images: Tensor) -> Tensor:
        return torch.cat([self._logits(batch) for batch in images.split(ASKED_AT_ONCE)])

    def _repaired(self, images: Tensor, logits: Tensor, concepts: Tensor, donors: Donors) -> Tensor:
        """One patch after another, to the goal or to where none helps: (N, C, H, W), (N,), (N,) -> (N, C, H, W).

        Each is the one that takes the logit furthest towards the goal for its side. What a patch is worth, and its
        donor, change with what is replaced around it; so each time the most promising are matched and scored anew.
        """
        images, logits, goal = images.clone(), logits.clone(), min(self.goal.item(), self._threshold)
        rows = torch.arange(len(images), device=images.device)  # (N',) those that are not done yet
        places = torch.arange(sum(map(len, self.grids)), device=images.device).repeat(len(images), 1)  # (N', T) to try
        costs = torch.cat([torch.full((len(grid),), float(grid.height)) for grid in self.grids]).to(images)  # (P,)
        worth = torch.empty(places.shape, device=images.device)  # (N, P), as last seen
        for _ in range(self.spec.max_patches):
            found = self._tried(images, rows, places, concepts, donors)
            gains = (logits[rows, None] - found).minimum((logits[rows] - goal)[:, None])
            worth[rows[:, None], places] = gains / costs[places]
            best = (gains / costs[places]).argmax(dim=1, keepdim=True)
            is_open = gains.gather(1, best)[:, 0] > 0
            rows, chosen = rows[is_open], places.gather(1, best)[is_open]
            self._tried(images, rows, chosen, concepts, donors, keep=True)
            logits[rows] = found.gather(1, best)[is_open, 0]
            rows = rows[logits[rows] > goal]
            if len(rows) == 0:
                break
            places = worth[rows].topk(min(self.spec.num_tried, worth.shape[1])).indices
        return images

    def _tried(
        self, images: Tensor, rows: Tensor, places: Tensor, concepts: Tensor, donors: Donors, keep: bool = False
    ) -> Tensor:
        """(N', T): the logits of the images at (N',) rows with the patch of each of (N', T) places alone.

        keep: leave the patches in the images, where T is 1.
        """
        image_of, place_of = rows[:, None].expand_as(places).flatten(), places.flatten()
        logits, first = images.new_empty(len(place_of)), 0
        for grid in self.grids:
            (here,) = torch.where((place_of >= first) & (place_of < first + len(grid)))
            for some in here.split(MATCHED_AT_ONCE):
                of_rows, of_grid = image_of[some], place_of[some] - first
                if len(some) == 0:
                    continue
                patches = donors.patches(images, of_rows, of_grid, concepts[of_rows], grid)
                for part in torch.arange(len(some), device=images.device).split(ASKED_AT_ONCE):
                    pasted = self._pasted(images[of_rows[part]], patches[part], of_grid[part], grid)
                    if keep:
                        images[of_rows[part]] = pasted
                    else:
                        logits[some[part]] = self._logits(pasted)
            first += len(grid)
        return logits.view(places.shape)

    def _pasted(self, images: Tensor, patches: Tensor, places: Tensor, grid: PatchGrid) -> Tensor:
        """(N, C, H, W), (N, C, h, w), (N,) places -> (N, C, H, W), what is new rounded to 8 bit, all else as it was."""
        blending = grid.blending(round(self.spec.feather * min(grid.height, grid.width))).to(images.device)[places]
        where = crop_indices(torch.arange(len(images)).to(places), *grid.corners(places), images.shape[1], grid.size)
        result = images.clone()
        result[where] = to_float(to_uint8(torch.lerp(images[where], patches, blending)))
        return result

    def _donors(self) -> Donors:
        return Donors(
            images=self.donors, is_fixed=self.spec.place is Place.same, interior=self.spec.interior_weight,
            shifts_brightness=self.spec.match_brightness,
        )
