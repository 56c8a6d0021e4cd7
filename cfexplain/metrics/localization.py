"""Does the edit lie where the defect is? For datasets that mark their defects.

An image's anomaly map is the largest change of each pixel over the concepts. The maps of normal test images, which are
explained too, are where false positives come from, as in the literature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.lazy import ndimage, Tensor
from cfexplain.metrics.auroc import auroc
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import shares_of_concepts
from cfexplain.types import Explanations

TOUCHING = np.ones((3, 3), dtype=bool)  # also corner to corner


def energy_in_mask(sources: Tensor, counterfactuals: Tensor, masks: Tensor) -> np.ndarray:
    """(N, K): share of the squared change |x_k - x|^2 inside the mask; NaN where nothing changed.

    sources: (N, C, H, W) uint8; counterfactuals: (N, K, C, H, W) uint8; masks: (N, H, W) bool.
    """
    shares = np.empty(counterfactuals.shape[:2])
    for row, (source, edited, mask) in enumerate(zip(sources, counterfactuals, masks, strict=True)):
        energy = (edited.double() - source.double()).square().sum(dim=1)  # (K, H, W)
        with np.errstate(invalid="ignore"):
            shares[row] = energy[:, mask].sum(dim=1).numpy() / energy.sum(dim=(1, 2)).numpy()
    return shares


def anomaly_maps(explanations: Explanations) -> np.ndarray:
    """(N, H, W) int: per pixel the sum over channels of |x_k - x| in 8-bit levels, the largest of all concepts."""
    sources, counterfactuals = explanations.sources.images, explanations.counterfactuals
    maps = np.empty((len(sources), *sources.shape[2:]), dtype=np.int64)
    for row, (source, edited) in enumerate(zip(sources, counterfactuals, strict=True)):
        maps[row] = (edited.short() - source.short()).abs().sum(dim=1).amax(dim=0).numpy()
    return maps


def aupro(maps: np.ndarray, masks: np.ndarray, max_false_positive_rate: float) -> float:
    """Area under the per-region overlap up to a false positive rate, divided by it (Bergmann et al., 2021).

    The overlap of a threshold is the share of a defect's region at or above it, averaged over all regions; a region is
    an 8-connected part of a mask. Chance gives half of the rate, perfect maps 1.

    maps:  (N, H, W) int >= 0, high where anomalous; masks: (N, H, W) bool, all False for normal images.
    """
    num_levels = int(maps.max()) + 1
    labels = (ndimage.label(mask, structure=TOUCHING)[0].astype(np.int64) for mask in masks)
    regions = np.concatenate([found[mask] + (row << 32) for row, (found, mask) in enumerate(zip(labels, masks))])
    _, places, sizes = np.unique(regions, return_inverse=True, return_counts=True)
    weights = 1 / (sizes * len(sizes))[places]  # of each defective pixel: regions count alike, whatever their size
    overlap = np.bincount(maps[masks], weights=weights, minlength=num_levels)[::-1].cumsum()
    false_positives = np.bincount(maps[~masks], minlength=num_levels)[::-1].cumsum() / (~masks).sum()
    rates, overlaps = np.append(0.0, false_positives), np.append(0.0, overlap)  # from no pixel to all of them
    end = np.searchsorted(rates, max_false_positive_rate, "right")
    at_end = np.interp(max_false_positive_rate, rates[end - 1 : end + 1], overlaps[end - 1 : end + 1])
    rates = np.append(rates[:end], max_false_positive_rate)
    overlaps = np.append(overlaps[:end], at_end)
    area = (np.diff(rates) * (overlaps[1:] + overlaps[:-1]) / 2).sum()
    return float(area / max_false_positive_rate)


@dataclass(frozen=True, kw_only=True)
class Localization(IntervalMetricSpec):
    """edit_in_mask, beside mask_fraction; pixel_auroc and aupro; nothing where the dataset has no masks."""

    meanings = {
        "edit_in_mask": ("share of the squared change inside the marked defect", "1"),
        "mask_fraction": ("share of pixels inside the marked defect: edit_in_mask by chance", "-"),
        "pixel_auroc": ("pixels of defects vs all others, by their change", "1"),
        "aupro": ("overlap of change and each defect, at few false positives", "1"),
    }

    max_false_positive_rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_false_positive_rate <= 1:
            raise ValueError(
                f"max_false_positive_rate must be > 0 and at most 1, got {self.max_false_positive_rate}"
            )

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        explanations, masks = inputs.explanations, inputs.defect_masks
        if masks is None:
            return {}
        values = self._shares(explanations, masks, inputs.seed)
        normals = inputs.explain(inputs.splits.test_normals)
        maps = np.concatenate([anomaly_maps(explanations), anomaly_maps(normals)])
        is_defect = np.zeros(maps.shape, dtype=bool)
        is_defect[: len(masks)] = masks.numpy()
        return values | {
            "pixel_auroc": auroc(maps[~is_defect], maps[is_defect]),
            "aupro": aupro(maps, is_defect, self.max_false_positive_rate),
        }

    def _shares(self, explanations: Explanations, masks: Tensor, seed: int) -> dict[str, float | str]:
        """Over the images with a mask that were edited at all."""
        is_marked = masks.flatten(1).any(dim=1).numpy()  # (N,)
        values: dict[str, float | str] = {"mask_fraction": float(masks[is_marked].double().mean())}
        shares = energy_in_mask(explanations.sources.images, explanations.counterfactuals, masks)
        counted = is_marked[:, None] & ~np.isnan(shares)
        if not counted.any(axis=0).all():
            tell_reader("edit_in_mask left out: a concept changes no image")
            return values
        shares = np.nan_to_num(shares)
        return values | shares_of_concepts("edit_in_mask", shares, seed, self.num_resamples, among=counted)
