"""What a dataset is: a spec with checked values, and `load`, which turns files into Splits."""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from cfexplain.checks import check_at_least, check_share
from cfexplain.data.exposures.base import ExposureSpec
from cfexplain.data.recorded_split import found_images, RecordedSplit
from cfexplain.errors import CfexplainWarning
from cfexplain.types import Augmentation, Splits


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(ABC):
    """A dataset with its normal rule. Raise ValueError in `__post_init__` for values out of range.

    cache_dir:         where rendered or converted images are kept; outside a run folder, only this is written to.
    held_out_fraction: share of the normal training images kept for calibration and selection.
    seed:              of hold-out, limits and orders.
    """

    anomalous_replaces_normal: ClassVar[bool] = True  # of the two lists of classes; else they stand side by side

    cache_dir: str
    held_out_fraction: float
    seed: int

    def __post_init__(self) -> None:
        check_share(self, "held_out_fraction")
        check_at_least(self, seed=0)

    @property
    @abstractmethod
    def slug(self) -> str:
        """Name for folders: dataset and normal set, of [a-z0-9_-] only, e.g. 'mnist-8_9'."""

    @property
    def augmentation(self) -> Augmentation | None:
        """Of training batches; None where images stay as they are."""
        return None

    @abstractmethod
    def load(self, exposure: ExposureSpec) -> Splits:
        """Read, or render, the images. DataError where a file is missing or damaged."""

    def load_again(self, exposure: ExposureSpec, recorded: RecordedSplit) -> Splits:
        """With the split of a run; a CfexplainWarning says what has changed since."""
        splits = self.load(exposure)
        found = recorded.find_again(found_images(splits))
        if found.has_changed:
            warnings.warn(
                f"the images of {self.slug} are not those of the training: {found.num_new} new, {found.num_gone} gone, "
                f"{found.num_changed} changed since {recorded.file}", CfexplainWarning, stacklevel=2,
            )
        return splits


@dataclass(frozen=True, kw_only=True)
class AugmentedDataset(DatasetSpec):
    """image_size: pixels a side. flip, crop_padding: of training batches, see types.Augmentation; false and 0: none."""

    image_size: ClassVar[int]  # or a field

    flip: bool
    crop_padding: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.crop_padding < self.image_size:  # more than a border can reflect
            raise ValueError(f"crop_padding must lie in 0 to {self.image_size - 1} pixels, got {self.crop_padding}")

    @property
    def augmentation(self) -> Augmentation | None:
        if not (self.flip or self.crop_padding):
            return None
        return Augmentation(flip=self.flip, crop_padding=self.crop_padding)


def as_slug(name: str) -> str:
    """In small letters, with _ for all that is not one of [a-z0-9_-]."""
    return re.sub(r"[^a-z0-9_-]", "_", name.lower())
