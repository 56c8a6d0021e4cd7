"""Colored-MNIST: MNIST digits in seven colours; normal is a colour, or a digit in any colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cfexplain.data.colours import (
    PALETTE,
    Masks,
    class_names,
    coloured_exposure,
    coloured_set,
    coloured_slug,
    factor_rule,
    has_normal_colour,
    plan_normals,
    plan_reference,
    plan_test,
)
from cfexplain.data.mnist_source import MnistSource
from cfexplain.data.splitting import hold_out, numbered
from cfexplain.errors import DataError
from cfexplain.types import FactorRule, Splits

COLOURS = tuple(PALETTE)


@dataclass(frozen=True, kw_only=True)
class Cmnist(MnistSource):
    """Balanced as the glyphs are; each MNIST image is used once in a split, so the rarest normal digit sets the size.

    normal, normal_colours: a digit is normal when it is one of `normal` or its colour one of `normal_colours`.
    test_limit:             test images, half normal, half anomalous.
    """

    normal_colours: list[str]
    test_limit: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        factor_rule(COLOURS, self.normal, self.normal_colours)
        if self.test_limit is not None and self.test_limit < 4:
            raise ValueError(f"test_limit must be at least 4, or null for all, got {self.test_limit}")

    @property
    def rule(self) -> FactorRule:
        return factor_rule(COLOURS, self.normal, self.normal_colours)

    @property
    def slug(self) -> str:
        return coloured_slug("cmnist", self.rule)

    def load(self) -> Splits:
        rule, rng = self.rule, np.random.default_rng([self.seed, 0])
        digits, test = self.read_digits(is_train=True), self.read_digits(is_train=False)
        normals = coloured_set(digits, _largest(plan_normals, rule, digits, self.train_limit), rule, rng)
        kinds = has_normal_colour(normals.classes.numpy(), rule)
        train, held_out = hold_out(normals, kinds, self.held_out_fraction, self.seed)
        judged = Masks(digits.images, digits.shapes, numbered("reference", range(len(digits.images))))
        exposure = self.read_grey_exposure(digits.images)
        return Splits(
            train=train,
            held_out=held_out,
            exposure=exposure and coloured_exposure(exposure, rule, rng),
            test=coloured_set(test, _largest(plan_test, rule, test, self.test_limit), rule, rng),
            reference=coloured_set(judged, _largest(plan_reference, rule, judged, self.reference_limit), rule, rng),
            class_names=class_names(rule),
            factors=rule,
        )


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
