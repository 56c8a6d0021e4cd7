"""The least change towards a counterfactual with which an image counts as normal.

Patches that the counterfactual does not need are put back to the original, those first that by the gradient raise the
score least for the change they save; of what is left, the smallest share that passes is found; then patches again. To
take the share first saves less: it uses up all the room below the threshold (0.46 of the change against 0.57 on the
coloured glyphs). Every step is judged after rounding to 8 bit, and only what passed is kept, so a score that does not
fall steadily costs length, not validity.
"""

from __future__ import annotations

from collections.abc import Callable

from cfexplain.data.base import to_float
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.inspection.saliency import logit_gradients
from cfexplain.inspection.way import blended
from cfexplain.lazy import Tensor, torch

SHARE_STEPS, BISECTIONS = 8, 5  # shares are found to 1 / 256
GRID = 8  # patches a side
PATCH_ROUNDS = 2  # before the share is found; then one more
PATCH_BISECTIONS = 5  # a round finds to 1 / 32 how many patches can be put back


def minimal_repairs(
    detector: Detector, sources: Tensor, counterfactuals: Tensor, threshold: float, device: torch.device | str
) -> Tensor:
    """(R, C, H, W) uint8 that pass the threshold, of counterfactuals (R, C, H, W) uint8 that do."""

    def passes(images: Tensor) -> Tensor:
        return logits_of(detector, images, device) <= threshold

    def with_patches_back(images: Tensor) -> Tensor:
        gradients = logit_gradients(detector, to_float(images), device)
        return with_patches_put_back(passes, sources, images, gradients)

    repairs = counterfactuals
    for _ in range(PATCH_ROUNDS):
        repairs = with_patches_back(repairs)
    shares = least_shares(passes, sources, repairs)
    return with_patches_back(blended(sources, repairs, shares[:, None, None, None]))


def least_shares(passes: Callable[[Tensor], Tensor], sources: Tensor, targets: Tensor) -> Tensor:
    """(R,) the smallest share of the way from source to target that was found to pass; targets pass."""
    high = torch.ones(len(sources))
    for step in range(SHARE_STEPS - 1, 0, -1):  # the last one found is the smallest
        share = step / SHARE_STEPS
        passing = passes(blended(sources, targets, share))
        high = torch.where(passing, share, high)
    low = high - 1 / SHARE_STEPS
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        passing = passes(blended(sources, targets, middle[:, None, None, None]))
        high, low = torch.where(passing, middle, high), torch.where(passing, low, middle)
    return high


def with_patches_put_back(
    passes: Callable[[Tensor], Tensor], sources: Tensor, repairs: Tensor, gradients: Tensor
) -> Tensor:
    """The repairs with as many patches as the source has them as still pass: the most of an order, by bisection.

    The order: predicted rise of the logit over the change saved, smallest first. All (R, C, H, W); gradients are those
    of the repairs' logits.
    """
    patches = patch_numbers(*sources.shape[2:])
    change = to_float(sources) - to_float(repairs)
    saved = _patch_sums(change.abs(), patches)
    rises = _patch_sums(gradients * change, patches) / torch.where(saved > 0, saved, 1.0)
    ranks = torch.where(saved > 0, rises, torch.inf).argsort(dim=1).argsort(dim=1)  # (R, P)
    most, too_many = torch.zeros(len(sources), dtype=torch.long), (saved > 0).sum(dim=1)

    def put_back(counts: Tensor) -> Tensor:
        is_back = (ranks < counts[:, None])[:, patches]  # (R, H, W)
        return torch.where(is_back[:, None], sources, repairs)

    for _ in range(PATCH_BISECTIONS):
        middle = (most + too_many + 1) // 2
        passing = passes(put_back(middle))
        most, too_many = torch.where(passing, middle, most), torch.where(passing, too_many, middle - 1)
    return put_back(most)


def patch_numbers(height: int, width: int) -> Tensor:
    """(H, W) int64: the number of each pixel's patch in a GRID by GRID grid, coarser where the image is smaller."""
    rows, columns = (torch.arange(side) * min(GRID, side) // side for side in (height, width))
    return rows[:, None] * min(GRID, width) + columns


def _patch_sums(values: Tensor, patches: Tensor) -> Tensor:
    """(R, C, H, W) -> (R, P) sums over each patch."""
    sums = torch.zeros(len(values), int(patches.max()) + 1)
    return sums.index_add_(1, patches.flatten(), values.sum(dim=1).flatten(1))
