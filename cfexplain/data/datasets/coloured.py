"""Coloured datasets: grey shapes times colours, with the rule "this colour, or this shape in any colour" for normal.

A plan is an array of class indices; grey digits of the planned shapes are then dealt out and coloured.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
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
# Grey digits (N, H, W), and the (M,) classes of the coloured images to be made of them.
Planned = tuple[RawImages, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ColouredDataset(DatasetSpec):
    """A digit is normal when it is one of `normal` or its colour one of `normal_colours`."""

    colours: ClassVar[tuple[str, ...]]

    normal: list[str]
    anomalous: list[str] | None
    normal_colours: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.rule

    @property
    def rule(self) -> FactorRule:
        """ValueError for digits or colours that are not there, or that leave no anomaly."""
        names, normal = list(self.colours), self.normal_colours
        shapes = normal_classes(self.normal, self.anomalous, DIGITS, {})
        for colour in normal:
            if colour not in names:
                hint = did_you_mean(colour, names)
                raise ValueError(f"normal_colours: no colour {colour!r}; there are {', '.join(names)}.{hint}")
        if not normal or len(set(normal)) < len(normal):
            raise ValueError(f"normal_colours must name each colour once and at least one, got {list(normal)}")
        if len(normal) == len(names):
            raise ValueError("normal_colours holds every colour: no anomaly is left. Leave at least one out")
        return FactorRule(
            shape_names=DIGITS,
            colour_names=self.colours,
            palette=tuple(PALETTE[name] for name in names),
            normal_shapes=shapes,
            normal_colours=tuple(sorted(map(names.index, normal))),
        )

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
            coloured_set(*planned[part], rule, rng) for part in ("train", "test", "reference")
        )
        kinds = has_normal_colour(normals.classes.numpy(), rule)
        train, held_out = hold_out(normals, kinds, self.held_out_fraction, self.seed)
        grey = planned["train"][0].images[:, None]
        return Splits(
            train=train,
            held_out=held_out,
            exposure=self._exposure(exposure, train, grey, reference, rng),
            test=test,
            reference=reference,
            class_names=class_names(rule),
            factors=rule,
            fresh=exposure.fresh,
        )

    def _exposure(
        self, exposure: ExposureSpec, normals: ImageSet, grey: np.ndarray, reference: ImageSet, rng: np.random.Generator
    ) -> ImageSet | None:
        """Grey shapes are coloured in the colours that are not normal: a red letter would obey the rule by its colour.

        What is made of the coloured images themselves stays as it is.
        normals: the coloured normal training images; grey: (N, 1, H, W) uint8, the shapes a grey exposure must not
        hold; reference: coloured training images of all classes, whose anomalous ones a supervised detector may get.
        """
        rule, images, others, names = self.rule, grey, None, self.rule.shape_names
        if exposure.is_like_dataset:
            anomalous = reference.select(reference.labels == ANOMALOUS)
            others = RawImages(anomalous.images.numpy(), anomalous.classes.numpy(), anomalous.ids)
            images, names = normals.images.numpy(), class_names(rule)
        request = ExposureRequest(
            normals=images, learned=images, others=others, class_names=names, cache_dir=self.cache_dir
        )
        if exposure.is_like_dataset:
            return load_exposure(exposure, request)
        found = exposure_pictures(exposure, request)
        if found is None:
            return None
        chosen = found.take(rng.permutation(len(found))[: exposure.limit])
        palette = [rgb for colour, rgb in enumerate(rule.palette) if colour not in rule.normal_colours]
        inks = np.array(palette)[rng.integers(len(palette), size=len(chosen))]
        return image_set(replace(chosen, images=colour_masks(chosen.images[:, 0], inks, rng)), ANOMALOUS)


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


def coloured_set(digits: RawImages, plan: np.ndarray, rule: FactorRule, rng: np.random.Generator) -> ImageSet:
    """The plan in random order, each image from a digit of its own."""
    plan = rng.permutation(plan)
    shapes, colours = np.divmod(plan, len(rule.colour_names))
    chosen = np.empty(len(plan), dtype=np.int64)
    for shape in np.unique(shapes):
        places, pool = np.flatnonzero(shapes == shape), np.flatnonzero(digits.classes == shape)
        assert len(pool) >= len(places), f"{len(places)} images of shape {shape} planned, {len(pool)} there"
        chosen[places] = rng.permutation(pool)[: len(places)]
    images = colour_masks(digits.images[chosen], np.array(rule.palette)[colours], rng)
    return image_set(RawImages(images, plan, [digits.ids[i] for i in chosen]), is_anomalous(plan, rule))


def colour_masks(masks: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey (N, H, W) uint8 times (N, 3) RGB -> (N, 3, H, W) uint8, each of slightly another brightness and tint."""
    brightness = rng.uniform(*_BRIGHTNESS, size=(len(masks), 1))
    tints = rng.uniform(-_TINT, _TINT, size=(len(masks), 3))
    inks = np.clip(colours * brightness + tints, 0, 255).astype(np.float32)  # (N, 3)
    images = np.empty((len(masks), 3, *masks.shape[1:]), dtype=np.uint8)
    for channel in range(3):
        images[:, channel] = masks * (inks[:, channel, None, None] / 255) + 0.5
    return images
