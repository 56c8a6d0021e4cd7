"""Coloured datasets: grey shapes times colours, with the rule "this colour, or this shape in any colour" for normal.

A plan is an array of class indices; grey digits of the planned shapes are then dealt out and coloured.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cfexplain.data.datasets.base import DatasetSpec
from cfexplain.data.datasets.class_dataset import normal_classes
from cfexplain.data.exposures.base import exposure_pictures, ExposureRequest, ExposureSpec, load_exposure
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.data.splits import hold_out, image_set
from cfexplain.errors import did_you_mean
from cfexplain.types import ANOMALOUS, FactorRule, ImageSet, Splits

# Corners of the RGB cube: as far from each other as colours can be, also after a change of brightness.
PALETTE = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
}
_BRIGHTNESS = (0.75, 1.0)
_TINT = 25  # each channel moves by up to this much
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Planned:
    """digits: grey (N, H, W), their classes the digits; plan: (M,) classes of the coloured images made of them."""

    digits: RawImages
    plan: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ColouredDataset(DatasetSpec):
    """normal, normal_colours: a digit is normal when it is one of `normal` or its colour one of `normal_colours`.

    anomalous: where given, it takes the place of `normal`: all other digits are normal.
    """

    colours: ClassVar[tuple[str, ...]]

    normal: list[str]
    anomalous: list[str] | None
    normal_colours: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.rule

    @property
    def rule(self) -> FactorRule:
        return factor_rule(self.colours, self.normal, self.anomalous, self.normal_colours)

    @property
    def slug(self) -> str:
        rule = self.rule
        colours = "_".join(rule.colour_names[colour] for colour in rule.normal_colours)
        shapes = "_".join(rule.shape_names[shape] for shape in rule.normal_shapes)
        return f"{type(self).__name__.lower()}-{colours}-{shapes}"

    @abstractmethod
    def planned(self) -> Mapping[str, Planned]:
        """Of the parts train (with those held out), test and reference. DataError where files are missing."""

    def load(self, exposure: ExposureSpec) -> Splits:
        rule, rng = self.rule, np.random.default_rng([self.seed, 0])
        planned = self.planned()
        normals, test, reference = (
            coloured_set(planned[part], rule, rng) for part in ("train", "test", "reference")
        )
        kinds = has_normal_colour(normals.classes.numpy(), rule)
        train, held_out = hold_out(normals, kinds, self.held_out_fraction, self.seed)
        grey = planned["train"].digits.images
        return Splits(
            train=train,
            held_out=held_out,
            exposure=coloured_exposure(exposure, train, grey, reference, rule, self.cache_dir, rng),
            test=test,
            reference=reference,
            class_names=class_names(rule),
            factors=rule,
        )


def factor_rule(
    colour_names: Sequence[str], normal: list[str], anomalous: list[str] | None, normal_colours: list[str]
) -> FactorRule:
    """The rule of coloured digits. ValueError for digits or colours that are not there, or that leave no anomaly."""
    normal_shapes = normal_classes(normal, anomalous, DIGITS, {})
    for colour in normal_colours:
        if colour not in colour_names:
            known = ", ".join(colour_names)
            hint = did_you_mean(colour, colour_names)
            raise ValueError(f"normal_colours: no colour {colour!r}; there are {known}.{hint}")
    if not normal_colours or len(set(normal_colours)) < len(normal_colours):
        raise ValueError(f"normal_colours must name each colour once and at least one, got {list(normal_colours)}")
    if len(normal_colours) == len(colour_names):
        raise ValueError("normal_colours holds every colour: no anomaly is left. Leave at least one out")
    return FactorRule(
        shape_names=DIGITS,
        colour_names=tuple(colour_names),
        palette=tuple(PALETTE[name] for name in colour_names),
        normal_shapes=normal_shapes,
        normal_colours=tuple(sorted(list(colour_names).index(colour) for colour in normal_colours)),
    )


def class_names(rule: FactorRule) -> tuple[str, ...]:
    """'red 1' and so on, by class index."""
    return tuple(f"{colour} {shape}" for shape in rule.shape_names for colour in rule.colour_names)


def has_normal_colour(classes: np.ndarray, rule: FactorRule) -> np.ndarray:
    return np.isin(classes % len(rule.colour_names), rule.normal_colours)


def is_anomalous(classes: np.ndarray, rule: FactorRule) -> np.ndarray:
    """(N,) class indices -> (N,) int64 labels."""
    has_normal_shape = np.isin(classes // len(rule.colour_names), rule.normal_shapes)
    return (~has_normal_colour(classes, rule) & ~has_normal_shape).astype(np.int64)


def plan_normals(rule: FactorRule, size: int) -> np.ndarray:
    """(size,) classes: half of a normal colour, all shapes alike; half of a normal shape, all other colours alike.

    Without the halves a normal shape in another colour would be rare, and the detector would not learn the rule.
    """
    every = np.arange(len(rule.shape_names) * len(rule.colour_names))
    normals = every[is_anomalous(every, rule) == 0]
    by_colour = has_normal_colour(normals, rule)
    return np.concatenate([np.resize(normals[by_colour], size - size // 2), np.resize(normals[~by_colour], size // 2)])


def plan_test(rule: FactorRule, size: int) -> np.ndarray:
    """(size,) classes: half normals as in training, half anomalies, all classes alike."""
    every = np.arange(len(rule.shape_names) * len(rule.colour_names))
    anomalous = every[is_anomalous(every, rule) == 1]
    return np.concatenate([plan_normals(rule, size - size // 2), np.resize(anomalous, size // 2)])


def plan_reference(rule: FactorRule, size: int) -> np.ndarray:
    """(size,) classes, all alike."""
    return np.resize(np.arange(len(rule.shape_names) * len(rule.colour_names)), size)


def coloured_set(planned: Planned, rule: FactorRule, rng: np.random.Generator) -> ImageSet:
    """The plan in random order, each image from a digit of its own."""
    digits, plan = planned.digits, rng.permutation(planned.plan)
    shapes, colours = np.divmod(plan, len(rule.colour_names))
    chosen = np.empty(len(plan), dtype=np.int64)
    for shape in np.unique(shapes):
        places, pool = np.flatnonzero(shapes == shape), np.flatnonzero(digits.classes == shape)
        assert len(pool) >= len(places), f"{len(places)} images of shape {shape} planned, {len(pool)} there"
        chosen[places] = rng.permutation(pool)[: len(places)]
    images = colour_masks(digits.images[chosen], np.array(rule.palette)[colours], rng)
    return image_set(RawImages(images, plan, [digits.ids[i] for i in chosen]), is_anomalous(plan, rule))


def coloured_exposure(
    exposure: ExposureSpec, normals: ImageSet, grey_normals: np.ndarray, reference: ImageSet, rule: FactorRule,
    cache_dir: str, rng: np.random.Generator,
) -> ImageSet | None:
    """Exposure for a coloured set: grey shapes are coloured in the colours that are not normal.

    A red letter would obey the rule by its colour. What is made of the coloured images themselves stays as it is.

    normals: the coloured normal training images; grey_normals: (N, H, W) uint8, the shapes a grey exposure must not
    hold; reference: coloured training images of all classes, whose anomalous ones a supervised detector may be given.
    """
    if exposure.is_like_dataset:
        anomalous = reference.select(reference.labels == ANOMALOUS)
        others = RawImages(anomalous.images.numpy(), anomalous.classes.numpy(), anomalous.ids)
        request = ExposureRequest(
            normals=normals.images.numpy(), learned=normals.images.numpy(), others=others,
            class_names=class_names(rule), cache_dir=cache_dir,
        )
        return load_exposure(exposure, request)
    request = ExposureRequest(
        normals=grey_normals[:, None], learned=grey_normals[:, None], others=None, class_names=rule.shape_names,
        cache_dir=cache_dir,
    )
    grey = exposure_pictures(exposure, request)
    if grey is None:
        return None
    chosen = grey.take(rng.permutation(len(grey))[: exposure.limit])
    palette = [rgb for colour, rgb in enumerate(rule.palette) if colour not in rule.normal_colours]
    inks = np.array(palette)[rng.integers(len(palette), size=len(chosen))]
    return image_set(replace(chosen, images=colour_masks(chosen.images[:, 0], inks, rng)), ANOMALOUS)


def colour_masks(masks: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey (N, H, W) uint8 times (N, 3) RGB -> (N, 3, H, W) uint8, each of slightly another brightness and tint."""
    brightness = rng.uniform(*_BRIGHTNESS, size=(len(masks), 1))
    tints = rng.uniform(-_TINT, _TINT, size=(len(masks), 3))
    inks = np.clip(colours * brightness + tints, 0, 255).astype(np.float32)  # (N, 3)
    images = np.empty((len(masks), 3, *masks.shape[1:]), dtype=np.uint8)
    for channel in range(3):
        images[:, channel] = masks * (inks[:, channel, None, None] / 255) + 0.5
    return images
