"""A run on parts with marked defects: squares in one place each of an image of coarse, smooth stripes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cfexplain.metrics.base import MetricInputs
from cfexplain.types import Explanations, ImageSet, Splits

SIDE, DEFECT = 32, 8  # pixels
NUM_DEFECTIVE, NUM_NORMAL = 12, 6
Repair = Callable[[ImageSet], Tensor]  # of N sources -> (N, K, C, H, W) uint8


def stripes(count: int, seed: int) -> Tensor:
    """(N, 3, H, W) uint8, each at its own phase, with a little noise."""
    rng = torch.Generator().manual_seed(seed)
    phases = 6.28 * torch.rand(count, 1, 1, 1, generator=rng)
    waves = 128 + 60 * (torch.arange(SIDE) / 3 + phases).sin()
    return (waves + 4 * torch.randn(count, 3, SIDE, SIDE, generator=rng)).round().clamp(0, 255).byte()


def part_splits(splits: Splits) -> Splits:
    """A test set of 12 marked images before 6 normal ones, in place of what `splits` has."""
    def of(images: Tensor, name: str, masks: Tensor | None = None) -> ImageSet:
        labels = torch.zeros(len(images), dtype=torch.long) if masks is None else masks.flatten(1).any(dim=1).long()
        ids = tuple(f"{name}/{row}" for row in range(len(images)))
        return ImageSet(images=images, labels=labels, classes=labels, ids=ids, masks=masks)

    rng = torch.Generator().manual_seed(1)
    images = stripes(NUM_DEFECTIVE + NUM_NORMAL, 2)
    masks = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    for mask in masks[:NUM_DEFECTIVE]:
        y, x = torch.randint(SIDE - DEFECT, (2,), generator=rng).tolist()
        mask[y : y + DEFECT, x : x + DEFECT] = True
    noise = torch.randint(256, images.shape, generator=rng, dtype=torch.uint8)
    images = torch.where(masks[:, None], noise, images)
    train, held_out = of(stripes(40, 3), "train"), of(stripes(20, 4), "held")
    return replace(splits, train=train, held_out=held_out, reference=train, test=of(images, "test", masks))


def run_on_parts(planted: MetricInputs, repair: Repair) -> MetricInputs:
    """Of a generator that does what `repair` says; its explanations carry no masks, as saved ones do not."""
    splits = part_splits(planted.splits)

    def explain(sources: ImageSet) -> Explanations:
        images = repair(sources)[:, None]  # one alpha bin
        return Explanations(
            sources=replace(sources, masks=None), images=images, logits=torch.zeros(images.shape[:3]),
            source_logits=torch.ones(len(sources)), threshold=0.5,
        )

    return replace(planted, splits=splits, explanations=explain(splits.test_anomalies), explain=explain)


def nothing(sources: ImageSet) -> Tensor:
    """One concept that does nothing."""
    return sources.images[:, None]
