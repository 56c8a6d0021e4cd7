"""The embedded default: coloured digits in Pillow's own font, letters as outlier exposure. Nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.data.datasets.coloured_dataset import ColouredDataset
from cfexplain.data.datasets.colours import (
    class_names, coloured_exposure, coloured_set, has_normal_colour, Masks, PALETTE, plan_normals, plan_reference,
    plan_test,
)
from cfexplain.data.exposures.base import ExposureSpec
from cfexplain.data.rendering import cached_masks, DIGITS
from cfexplain.data.splitting import hold_out, numbered
from cfexplain.types import Splits


@dataclass(frozen=True, kw_only=True)
class Glyphs(ColouredDataset):
    """Rendered digits in six colours.

    train_size:     normal images, those held out included.
    test_size:      half normal, half anomalous.
    reference_size: images of all digits in all colours.
    """

    name = "glyphs"
    colours = tuple(PALETTE)[:6]

    train_size: int
    test_size: int
    reference_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("train_size", 20), ("test_size", 4), ("reference_size", 60)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def load(self, exposure: ExposureSpec) -> Splits:
        rule, rng = self.rule, np.random.default_rng([self.seed, 0])
        plans = {
            "train": plan_normals(rule, self.train_size),
            "test": plan_test(rule, self.test_size),
            "reference": plan_reference(rule, self.reference_size),
        }
        masks = {name: self._digits(name, plan) for name, plan in plans.items()}
        sets = {name: coloured_set(masks[name], plan, rule, rng) for name, plan in plans.items()}
        kinds = has_normal_colour(sets["train"].classes.numpy(), rule)
        train, held_out = hold_out(sets["train"], kinds, self.held_out_fraction, self.seed)
        return Splits(
            train=train,
            held_out=held_out,
            exposure=coloured_exposure(
                exposure, train, masks["train"].images, sets["reference"], rule, self.cache_dir, rng
            ),
            test=sets["test"],
            reference=sets["reference"],
            class_names=class_names(rule),
            factors=rule,
        )

    def _digits(self, name: str, plan: np.ndarray) -> Masks:
        shapes = np.sort(plan // len(self.colours))
        characters = "".join(DIGITS[shape] for shape in shapes)
        images = cached_masks(self.cache_dir, name, characters, self.seed)
        return Masks(images, shapes, numbered(name, range(len(images))))
