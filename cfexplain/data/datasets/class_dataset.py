"""Labelled collections (MNIST, CIFAR-10, traffic signs) as anomaly detection: some classes normal, all others not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cfexplain.checks import check_limits
from cfexplain.data.datasets.base import as_slug, DatasetSpec
from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec, load_exposure
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.data.splits import hold_out, image_set
from cfexplain.errors import DataError, did_you_mean
from cfexplain.types import ANOMALOUS, ImageSet, NORMAL, Splits

NamedSets = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ClassDataset(DatasetSpec):
    """Limits are upper limits for small machines; null takes all. The whole official test part is used.

    normal:          classes, by id or name, or a named set of them.
    anomalous:       where given, it takes the place of `normal`: all other classes are normal (leave one out).
    train_limit:     normal images, those held out included.
    reference_limit: images of all classes for the classifiers of the metrics.
    """

    class_names: ClassVar[tuple[str, ...]]
    named_sets: ClassVar[NamedSets] = {}

    normal: list[str]
    anomalous: list[str] | None
    train_limit: int | None
    reference_limit: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_classes()
        check_limits(self, train_limit=20, reference_limit=10)

    def check_classes(self) -> None:
        """ValueError where `normal` or `anomalous` cannot be meant."""
        _ = self.normal_classes

    @property
    def normal_classes(self) -> tuple[int, ...]:
        return normal_classes(self.normal, self.anomalous, self.class_names, self.named_sets)

    @property
    def slug(self) -> str:
        words = sorted(self.normal) if self.anomalous is None else ["not", *sorted(self.anomalous)]
        return as_slug(f"{type(self).__name__}-{'_'.join(words)}")

    @abstractmethod
    def read(self, is_train: bool) -> RawImages:
        """All pictures of the official training or test part, with ids such as 'train/00042'."""

    def others(self, train: RawImages) -> RawImages | None:
        """Training images of known anomalies, from which an exposure may take; None where there are none."""
        return train.take(np.flatnonzero(self._labels(train) == ANOMALOUS))

    def load(self, exposure: ExposureSpec) -> Splits:
        train, test = self.read(is_train=True), self.read(is_train=False)
        rng = np.random.default_rng([self.seed, 0])
        labels = self._labels(train)
        normals = rng.permutation(np.flatnonzero(labels == NORMAL))
        # Two normal images to split, or one to test on, are the least; without anomalies there is nothing to test.
        for part, there in (("training", labels), ("test", self._labels(test))):
            if (there == NORMAL).sum() < 2 or (part == "test" and (there == ANOMALOUS).sum() < 1):
                names = ", ".join(self.class_names[index] for index in self.normal_classes)
                wrong = f"the {part} images lack normal or anomalous ones (normal: {names})"
                raise DataError(f"{wrong}. Check dataset.root.")
        normals = np.sort(normals[: self.train_limit])
        groups = None if train.groups is None else train.groups[normals]
        learned, held_out = hold_out(
            self._set(train, normals), train.classes[normals], self.held_out_fraction, self.seed, groups
        )
        all_normals = train.images[labels == NORMAL]
        request = ExposureRequest(
            normals=all_normals[:, None] if all_normals.ndim == 3 else all_normals,
            learned=learned.images.numpy(),
            others=self.others(train),
            class_names=self.class_names,
            cache_dir=self.cache_dir,
        )
        reference = np.sort(rng.permutation(len(train))[: self.reference_limit])
        return Splits(
            train=learned,
            held_out=held_out,
            exposure=load_exposure(exposure, request),
            test=self._set(test, np.arange(len(test))),
            reference=self._set(train, reference),
            class_names=self.class_names,
            factors=None,
            augmentation=self.augmentation,
            fresh=exposure.fresh,
        )

    def _labels(self, images: RawImages) -> np.ndarray:
        return np.where(np.isin(images.classes, self.normal_classes), NORMAL, ANOMALOUS)

    def _set(self, images: RawImages, chosen: np.ndarray) -> ImageSet:
        taken = images.take(chosen)
        return image_set(taken, self._labels(taken))


def normal_classes(
    normal: Sequence[str], anomalous: Sequence[str] | None, class_names: Sequence[str], named_sets: NamedSets
) -> tuple[int, ...]:
    """Indices of the normal classes, ascending; `anomalous`, where given, takes the place of `normal`.

    ValueError, naming the field first, for what is unknown, doubled, empty, or leaves no normal or no anomalous class.
    """
    if anomalous is None:
        chosen = _indices("normal", normal, class_names, named_sets)
    else:
        left_out = _indices("anomalous", anomalous, class_names, named_sets)
        chosen = [index for index in range(len(class_names)) if index not in left_out]
    if len(chosen) == len(class_names):
        raise ValueError(f"normal holds all {len(class_names)} classes: no anomaly is left. Leave at least one out")
    if not chosen:
        raise ValueError(f"anomalous holds all {len(class_names)} classes: nothing normal is left")
    return tuple(sorted(chosen))


def _indices(field: str, wanted: Sequence[str], class_names: Sequence[str], named_sets: NamedSets) -> list[int]:
    if not wanted:
        raise ValueError(f"{field} is empty: name at least one class, e.g. {field}=[{class_names[1]}]")
    found: list[int] = []
    for word in map(str, wanted):
        if word in named_sets:
            found += named_sets[word]
        elif word in class_names:
            found.append(list(class_names).index(word))
        elif word.isdecimal() and int(word) < len(class_names):
            found.append(int(word))
        else:
            known = [*named_sets, *class_names]
            shown = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
            raise ValueError(
                f"{field}: no class {word!r}; ids are 0 to {len(class_names) - 1}, names {shown}."
                f"{did_you_mean(word, known)}"
            )
    if len(set(found)) < len(found):
        raise ValueError(f"{field} names a class twice: {list(wanted)}")
    return found
