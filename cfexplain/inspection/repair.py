"""Between an image and its counterfactual: the way there, and the least change with which the image counts as normal.

For a minimal repair, patches that the counterfactual does not need are put back to the original, those first that by
the gradient raise the score least for the change they save; of what is left, the smallest share that passes is found;
then patches again. To take the share first saves less: it uses up all the room below the threshold (0.46 of the change
against 0.57 on the coloured glyphs). Every step is scored after rounding to 8 bit, and only what passed is kept, so a
score that does not fall steadily costs length, not validity.
"""

from __future__ import annotations

from collections.abc import Callable

from cfexplain.data.batches import to_float
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.inspection.base import NUM_WAY_STEPS
from cfexplain.inspection.saliency import images_within, logit_gradients, PIXELS
from cfexplain.lazy import Tensor, torch
from cfexplain.types import Explanations

SHARE_STEPS, BISECTIONS = 8, 5  # shares are found to 1 / 256
GRID = 8  # patches a side
PATCH_ROUNDS = 2  # before the share is found; then one more
PATCH_BISECTIONS = 5  # a round finds to 1 / 32 how many patches can be put back


def blended(sources: Tensor, targets: Tensor, shares: Tensor | float) -> Tensor:
    """source + share * (target - source), rounded to 8 bit: (..., C, H, W) uint8; `shares` broadcasts, in [0, 1]."""
    start = sources.float()
    return (start + shares * (targets.float() - start)).round_().byte()


def way_images(sources: Tensor, images: Tensor, step: int) -> Tensor:
    """(N, K, C, H, W) uint8: step `step` of the way, 0 the image itself, NUM_WAY_STEPS - 1 the one for alpha = 0.

    sources: (N, C, H, W); images: (N, A, K, C, H, W), bin 0 is alpha = 0. In between lie the images of bins A - 2, ...,
    1; that of the highest bin, which keeps an anomaly as it is, is left out: for two bins the way is a straight blend.
    """
    stops = [sources[:, None].expand_as(images[:, 0]), *images[:, :-1].flip(1).unbind(1)]
    position = step / (NUM_WAY_STEPS - 1) * (len(stops) - 1)
    first = min(int(position), len(stops) - 2)
    return blended(stops[first], stops[first + 1], position - first)


def way_logits(
    detector: Detector, sources: Tensor, images: Tensor, ends: tuple[Tensor, Tensor], device: torch.device | str
) -> Tensor:
    """(N, K, NUM_WAY_STEPS) float32, logits along the way. ends: (N,) of the sources, (N, K) for alpha = 0."""
    first, last = ends
    logits = [first[:, None].expand_as(last)]
    for step in range(1, NUM_WAY_STEPS - 1):
        pictures = way_images(sources, images, step)
        logits.append(logits_of(detector, pictures.flatten(0, 1), device).reshape(last.shape))
    return torch.stack([*logits, last], dim=2)


def repaired(
    detector: Detector, explanations: Explanations, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """(N, K, C, H, W) uint8 and their (N, K) logits.

    Where there is nothing to repair the image itself; where the counterfactual fails, or its repair does after all (a
    network's last digits depend on the batch), the counterfactual.
    """
    sources, counterfactuals = explanations.sources.images, explanations.counterfactuals
    logits, threshold = explanations.logits[:, 0], explanations.threshold
    is_normal = (explanations.source_logits <= threshold)[:, None].expand_as(logits)
    repairs = torch.where(is_normal[..., None, None, None], sources[:, None], counterfactuals)
    repair_logits = torch.where(is_normal, explanations.source_logits[:, None], logits)
    images, concepts = (~is_normal & (logits <= threshold)).nonzero(as_tuple=True)
    if len(images) == 0:
        return repairs, repair_logits
    parts = zip(*(numbers.split(images_within(PIXELS, sources)) for numbers in (images, concepts)), strict=True)
    found = torch.cat([
        minimal_repairs(detector, sources[rows], counterfactuals[rows, numbers], threshold, device)
        for rows, numbers in parts
    ])  # fmt: skip
    found_logits = logits_of(detector, found, device)
    passes = found_logits <= threshold
    images, concepts = images[passes], concepts[passes]
    repairs[images, concepts], repair_logits[images, concepts] = found[passes], found_logits[passes]
    return repairs, repair_logits


def minimal_repairs(
    detector: Detector, sources: Tensor, counterfactuals: Tensor, threshold: float, device: torch.device | str
) -> Tensor:
    """(R, C, H, W) uint8 that pass the threshold, of counterfactuals (R, C, H, W) uint8 that do."""

    def passes(images: Tensor) -> Tensor:
        return logits_of(detector, images, device) <= threshold

    def patches_restored(images: Tensor) -> Tensor:
        gradients = logit_gradients(detector, to_float(images), device)
        return restore_patches(passes, sources, images, gradients)

    repairs = counterfactuals
    for _ in range(PATCH_ROUNDS):
        repairs = patches_restored(repairs)
    shares = least_shares(passes, sources, repairs)
    return patches_restored(blended(sources, repairs, shares[:, None, None, None]))


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


def restore_patches(
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

    def restored(counts: Tensor) -> Tensor:
        is_restored = (ranks < counts[:, None])[:, patches]  # (R, H, W)
        return torch.where(is_restored[:, None], sources, repairs)

    for _ in range(PATCH_BISECTIONS):
        middle = (most + too_many + 1) // 2
        passing = passes(restored(middle))
        most, too_many = torch.where(passing, middle, most), torch.where(passing, too_many, middle - 1)
    return restored(most)


def patch_numbers(height: int, width: int) -> Tensor:
    """(H, W) int64: the number of each pixel's patch in a GRID by GRID grid, coarser where the image is smaller."""
    rows, columns = (torch.arange(side) * min(GRID, side) // side for side in (height, width))
    return rows[:, None] * min(GRID, width) + columns


def _patch_sums(values: Tensor, patches: Tensor) -> Tensor:
    """(R, C, H, W) -> (R, P) sums over each patch."""
    sums = torch.zeros(len(values), int(patches.max()) + 1)
    return sums.index_add_(1, patches.flatten(), values.sum(dim=1).flatten(1))
