"""Grey MNIST digits (LeCun et al., 1998), one or several of them normal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.data.colours import Masks
from cfexplain.data.mnist_source import MnistSource
from cfexplain.data.splitting import hold_out, image_set, numbered
from cfexplain.errors import DataError
from cfexplain.types import ANOMALOUS, NORMAL, ImageSet, Splits


@dataclass(frozen=True, kw_only=True)
class Mnist(MnistSource):
    """Normal digits against the others; all of the official test part is used."""

    @property
    def slug(self) -> str:
        return f"mnist-{'_'.join(str(digit) for digit in sorted(self.normal))}"

    def load(self) -> Splits:
        digits, test = self.read_digits(is_train=True), self.read_digits(is_train=False)
        rng = np.random.default_rng([self.seed, 0])
        normals = rng.permutation(np.flatnonzero(self._labels(digits) == NORMAL))
        for part, labels in (("training", self._labels(digits)), ("test", self._labels(test))):
            if (labels == NORMAL).sum() < 2 or (labels == ANOMALOUS).sum() < 1:
                given = f"normal={list(self.normal)}"
                raise DataError(f"the {part} files in {self.root} lack normal or anomalous digits ({given}).")
        exposure = self.read_grey_exposure(digits.images[normals])
        normals = np.sort(normals[: self.train_limit])
        train, held_out = hold_out(
            self._set(digits, normals, "train"), digits.shapes[normals], self.held_out_fraction, self.seed
        )
        reference = np.sort(rng.permutation(len(digits.images))[: self.reference_limit])
        return Splits(
            train=train,
            held_out=held_out,
            exposure=exposure and _exposure_set(exposure),
            test=self._set(test, np.arange(len(test.images)), "test"),
            reference=self._set(digits, reference, "reference"),
            class_names=tuple(str(digit) for digit in range(10)),
            factors=None,
        )

    def _labels(self, digits: Masks) -> np.ndarray:
        return np.where(np.isin(digits.shapes, self.normal), NORMAL, ANOMALOUS)

    def _set(self, digits: Masks, chosen: np.ndarray, name: str) -> ImageSet:
        labels, classes = self._labels(digits)[chosen], digits.shapes[chosen]
        return image_set(digits.images[chosen], labels, classes, numbered(name, chosen))


def _exposure_set(masks: Masks) -> ImageSet:
    return image_set(masks.images, np.full(len(masks.images), ANOMALOUS), masks.shapes, masks.ids)
