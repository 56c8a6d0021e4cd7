"""Does a repaired region look like normal ones? For datasets that mark their defects.

Patches of the region are compared to those of normal training images: how many times as far as these are from each
other is the nearest one? As with the local outlier factor (Breunig et al., 2000), a normal patch has about 1 on a flat
ground as on a busy one, whose patches are all far apart, so regions compare wherever they lie.

Patches are the pixels themselves and their contrast: no network, no detector. By pixels alone a smooth patch is near to
all, and a blur would be a repair; contrast tells it from texture. Windows reach beyond the mask, so that a seam shows.
It cannot tell which normal region belongs there: that is what restoration is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_at_least, check_positive
from cfexplain.engine.seeding import step_generator
from cfexplain.lazy import F, Tensor, torch
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import LEVEL, resample_counts, with_interval

LEAST_DISTANCE = 1.0  # level: what differs by less differs by rounding
PART = 500  # patches that are compared at a time
NUM_PLACES = 5  # of a mask on held-out images, to know what is normal


class NormalPatches:
    """Patches of normal images, and how far each is from the nearest one of another image."""

    def __init__(
        self, images: Tensor, side: int, count: int, contrast_weight: float, generator: torch.Generator
    ) -> None:
        """images: (N, C, H, W) uint8, two or more; side: of a patch, in pixels; count: of patches, from any place."""
        height, width = images.shape[2:]
        rows = torch.randint(len(images), (count,), generator=generator)
        ys = torch.randint(height - side + 1, (count,), generator=generator)
        xs = torch.randint(width - side + 1, (count,), generator=generator)
        places = zip(rows.tolist(), ys.tolist(), xs.tolist(), strict=True)
        self.side, self.contrast_weight = side, contrast_weight
        self.patches = described(
            torch.stack([images[row, :, y : y + side, x : x + side] for row, y, x in places]), contrast_weight
        )
        parts = zip(self.patches.split(PART), rows.split(PART), strict=True)
        self.spacings = torch.cat([
            torch.cdist(part, self.patches).masked_fill_(own[:, None] == rows, torch.inf).amin(dim=1)
            for part, own in parts
        ])  # (count,)

    def log_ratios(self, patches: Tensor) -> Tensor:
        """(M, C, side, side) uint8 -> (M,): log of the distance to the nearest over that one's own, levels both."""
        parts = described(patches, self.contrast_weight).split(PART)
        nearest = [torch.cdist(part, self.patches).min(dim=1) for part in parts]
        distances = torch.cat([found.values for found in nearest])
        spacings = self.spacings[torch.cat([found.indices for found in nearest])]
        return distances.clamp_min(LEAST_DISTANCE).log() - spacings.clamp_min(LEAST_DISTANCE).log()

    def of_regions(self, images: Tensor, masks: Tensor) -> np.ndarray:
        """(N, C, H, W) uint8, (N, H, W) bool, none empty -> (N,): mean log ratio of the windows that meet the mask.

        Windows overlap by half; one weighs as much as it has of the mask.
        """
        values = []
        for image, mask in zip(images, masks, strict=True):
            weights = windows(mask[None], self.side).float().mean(dim=(1, 2, 3))
            met = windows(image, self.side)[weights > 0]
            values.append((self.log_ratios(met) * weights[weights > 0]).sum() / weights.sum())
        return torch.stack(values).double().numpy()


def described(patches: Tensor, contrast_weight: float) -> Tensor:
    """(M, C, side, side) uint8 -> (M, D) float32, whose squared distance is that of pixels plus that of contrasts.

    Both are mean squares of differences in levels, those of contrasts, one a quarter and channel, times the squared
    weight. Contrast is the mean difference of a pixel from the mean of the 3 x 3 around it.
    """
    pixels = patches.float() - 127.5  # about 0: products of large numbers would cost the distance its digits
    around = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    contrasts = F.adaptive_avg_pool2d((pixels - around).abs(), 2).flatten(1)
    pixels = pixels.flatten(1)
    parts = [pixels / pixels.shape[1] ** 0.5, contrast_weight * contrasts / contrasts.shape[1] ** 0.5]
    return torch.cat(parts, dim=1)


def windows(image: Tensor, side: int) -> Tensor:
    """(C, H, W) -> (L, C, side, side): at every half side, and at the far edges."""
    starts = [sorted({*range(0, size - side, max(1, side // 2)), size - side}) for size in image.shape[1:]]
    views = image.unfold(1, side, 1).unfold(2, side, 1)[:, starts[0]][:, :, starts[1]]  # (C, rows, columns, side, side)
    return views.permute(1, 2, 0, 3, 4).flatten(0, 1)


def corrections(before: np.ndarray, after: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(K,): of the way from the defects to normal regions, the share gone; log ratios (N,), (N, K) and (N,)."""
    return (before.mean() - after.mean(axis=0)) / (before.mean() - normal.mean())


@dataclass(frozen=True, kw_only=True)
class Correction(IntervalMetricSpec):
    """correction, beside correction_before, _after and _normal; nothing where the dataset has no masks.

    patch_pixels:    side of a patch.
    num_patches:     of normal training images.
    contrast_weight: of a difference in contrast, where one in pixels has 1.
    """

    meanings = {
        "correction": ("way from defective to normal-looking regions that is gone; 0: nothing done", "1"),
        "correction_before": ("defects: times as far from normal patches as these are apart", "-"),
        "correction_after": ("the same of the repaired regions", "correction_normal"),
        "correction_normal": ("the same of held-out normal regions", "-"),
    }

    patch_pixels: int
    num_patches: int
    contrast_weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "patch_pixels", "num_patches")
        check_at_least(self, contrast_weight=0)

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        masks = inputs.defect_masks
        if masks is None:
            return {}
        if len(inputs.splits.train) == 1:
            tell_reader("correction left out: how far normal patches lie apart takes two training images or more")
            return {}
        is_marked = masks.flatten(1).any(dim=1)
        masks, explanations = masks[is_marked], inputs.explanations
        sources, edited = explanations.sources.images[is_marked], explanations.counterfactuals[is_marked]
        generator = step_generator(inputs.seed, 0, "correction")
        side = min(self.patch_pixels, *masks.shape[1:])
        normals = NormalPatches(inputs.splits.train.images, side, self.num_patches, self.contrast_weight, generator)
        before = normals.of_regions(sources, masks)
        after = np.stack([normals.of_regions(images, masks) for images in edited.unbind(dim=1)], axis=1)
        places = [_elsewhere(inputs.splits.held_out.images, masks, generator) for _ in range(NUM_PLACES)]
        normal = np.mean([normals.of_regions(*place) for place in places], axis=0)
        values: dict[str, float | str] = {
            "correction_before": float(np.exp(before.mean())),
            "correction_after": float(np.exp(after.mean())),
            "correction_normal": float(np.exp(normal.mean())),
        }
        return values | self._share(before, after, normal, inputs.seed)

    def _share(self, before: np.ndarray, after: np.ndarray, normal: np.ndarray, seed: int) -> dict[str, float]:
        rng = np.random.default_rng(seed)
        drawn = [resample_counts(len(before), rng) for _ in range(self.num_resamples)]
        if np.quantile([counts @ (before - normal) for counts in drawn], (1 - LEVEL) / 2) <= 0:
            tell_reader("correction left out: defects are hardly farther from normal patches than normal regions are")
            return {}
        of_concepts = corrections(before, after, normal)
        resampled = [counts @ (before - after.mean(axis=1)) / (counts @ (before - normal)) for counts in drawn]
        return {
            **with_interval("correction", of_concepts.mean(), np.array(resampled)),
            **{f"correction_concept_{concept}": float(value) for concept, value in enumerate(of_concepts)},
        }


def _elsewhere(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each of N masks one of the images, drawn with replacement, and the mask moved to a random place of it."""
    rows = torch.randint(len(images), (len(masks),), generator=generator)
    shifts = [torch.randint(size, (len(masks),), generator=generator).tolist() for size in masks.shape[1:]]
    moved = [mask.roll(shift, dims=(0, 1)) for mask, shift in zip(masks, zip(*shifts, strict=True), strict=True)]
    return images[rows], torch.stack(moved)
