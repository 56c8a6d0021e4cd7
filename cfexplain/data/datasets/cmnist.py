"""Colored-MNIST: MNIST digits in seven colours; normal is a colour, or a digit in any colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cfexplain.data.datasets.coloured_dataset import ColouredDataset
from cfexplain.data.datasets.colours import (
    class_names, coloured_exposure, coloured_set, has_normal_colour, Masks, PALETTE, plan_normals, plan_reference,
    plan_test,
)
from cfexplain.data.exposures.base import ExposureSpec
from cfexplain.data.reading.torchvision_files import MNIST, read_files
from cfexplain.data.splitting import hold_out, numbered
from cfexplain.errors import DataError
from cfexplain.types import FactorRule, Splits


@dataclass(frozen=True, kw_only=True)
class Cmnist(ColouredDataset):
    """Balanced as the glyphs are; each MNIST image is used once in a split, so the rarest normal digit sets the size.

    root, download:  folder that holds MNIST/raw; let torchvision fetch into it what is missing.
    train_limit:     normal images, those held out included; test_limit: half normal, half anomalous.
    reference_limit: images of all classes for the judges. Null is as many as a balanced set allows.
    """

    name = "cmnist"
    colours = tuple(PALETTE)

    root: str
    download: bool
    train_limit: int | None
    test_limit: int | None
    reference_limit: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("train_limit", 20), ("test_limit", 4), ("reference_limit", 10)):
            limit = getattr(self, name)
            if limit is not None and limit < least:
                raise ValueError(f"{name} must be at least {least}, or null for all, got {limit}")

    def load(self, exposure: ExposureSpec) -> Splits:
        rule, rng = self.rule, np.random.default_rng([self.seed, 0])
        digits, test = self._digits(is_train=True), self._digits(is_train=False)
        normals = coloured_set(digits, _largest(plan_normals, rule, digits, self.train_limit), rule, rng)
        kinds = has_normal_colour(normals.classes.numpy(), rule)
        train, held_out = hold_out(normals, kinds, self.held_out_fraction, self.seed)
        judged = Masks(digits.images, digits.shapes, numbered("reference", range(len(digits.images))))
        tested = coloured_set(test, _largest(plan_test, rule, test, self.test_limit), rule, rng)
        reference = coloured_set(judged, _largest(plan_reference, rule, judged, self.reference_limit), rule, rng)
        return Splits(
            train=train,
            held_out=held_out,
            exposure=coloured_exposure(exposure, train, digits.images, reference, rule, self.cache_dir, rng),
            test=tested,
            reference=reference,
            class_names=class_names(rule),
            factors=rule,
        )

    def _digits(self, is_train: bool) -> Masks:
        images, shapes = read_files(MNIST, self.root, self.download, self.cache_dir, is_train)
        return Masks(images, shapes, numbered("train" if is_train else "test", range(len(images))))


def _largest(
    make_plan: Callable[[FactorRule, int], np.ndarray], rule: FactorRule, masks: Masks, limit: int | None
) -> np.ndarray:
    """The largest plan, up to `limit`, that the masks of each shape suffice for."""
    num_there = np.bincount(masks.shapes, minlength=len(rule.shape_names))

    def fits(size: int) -> bool:
        num_needed = np.bincount(make_plan(rule, size) // len(rule.colour_names), minlength=len(rule.shape_names))
        return bool((num_needed <= num_there).all())

    size, too_large = 0, min(limit or len(masks.images), len(masks.images)) + 1
    while too_large - size > 1:  # the need of each shape grows with the size
        middle = (size + too_large) // 2
        size, too_large = (middle, too_large) if fits(middle) else (size, middle)
    if size < 20:
        raise DataError(f"the MNIST files hold too few of some digit for a balanced coloured set ({size} images).")
    return make_plan(rule, size)
