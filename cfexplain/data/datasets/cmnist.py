"""Colored-MNIST: MNIST digits in seven colours; normal is a colour, or a digit in any colour."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_limits
from cfexplain.data.datasets.coloured import ColouredDataset, PALETTE, plan_normals, plan_reference, plan_test, Planned
from cfexplain.data.reading.idx import MNIST, read_idx_set
from cfexplain.data.reading.raw_images import numbered, RawImages
from cfexplain.errors import DataError
from cfexplain.types import FactorRule


@dataclass(frozen=True, kw_only=True)
class Cmnist(ColouredDataset):
    """Balanced as the glyphs are; each image is used once in a split, so the rarest normal digit sets the size."""

    colours = tuple(PALETTE)

    root: str
    download: bool
    train_limit: int | None
    test_limit: int | None
    reference_limit: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(self, train_limit=20, test_limit=4, reference_limit=10)

    def planned(self) -> dict[str, Planned]:
        """The reference is made of the training digits too, coloured anew."""
        train, test = (read_idx_set(MNIST, self.root, self.download, is_train) for is_train in (True, False))
        reference = numbered("reference", train.images, train.classes)
        return {
            "train": (train, _largest(plan_normals, self.rule, train, self.train_limit)),
            "test": (test, _largest(plan_test, self.rule, test, self.test_limit)),
            "reference": (reference, _largest(plan_reference, self.rule, reference, self.reference_limit)),
        }


def _largest(
    make_plan: Callable[[FactorRule, int], np.ndarray], rule: FactorRule, digits: RawImages, limit: int | None
) -> np.ndarray:
    """The largest plan, up to `limit`, that the images of each digit suffice for."""
    num_there = np.bincount(digits.classes, minlength=len(rule.shape_names))

    def fits(size: int) -> bool:
        num_needed = np.bincount(make_plan(rule, size) // len(rule.colour_names), minlength=len(rule.shape_names))
        return bool((num_needed <= num_there).all())

    sizes = range(1, min(limit or len(digits), len(digits)) + 1)
    size = bisect_left(sizes, True, key=lambda size: not fits(size))  # the need of each shape grows with the size
    if size < 20:
        raise DataError(f"the MNIST files hold too few of some digit for a balanced coloured set ({size} images).")
    return make_plan(rule, size)
