"""What the datasets made of MNIST share: where its files are, and the exposure that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.data.base import DatasetSpec
from cfexplain.data.colours import Masks, check_digits
from cfexplain.data.exposure import Exposure, read_exposure, without_normals
from cfexplain.data.splitting import numbered
from cfexplain.data.torchvision_files import MNIST, read_files


@dataclass(frozen=True, kw_only=True)
class MnistSource(DatasetSpec):
    """Fields of every dataset made of MNIST. Limits are upper limits for small machines; null takes all.

    normal:          the normal digits.
    root:            folder that holds MNIST/raw (and EMNIST/raw), packed or not; only a download writes there.
    download:        let torchvision fetch what is missing.
    exposure_images: an idx file of 28x28 images, .gz or not, for exposure=idx.
    train_limit:     normal images, those held out included.
    reference_limit: images of all classes for the judges.
    seed:            of hold-out, limits and orders.
    """

    normal: list[int]
    root: str
    download: bool
    exposure: Exposure
    exposure_images: str | None
    train_limit: int | None
    exposure_limit: int | None
    reference_limit: int | None
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_digits(self.normal)
        for name, least in (("train_limit", 20), ("exposure_limit", 1), ("reference_limit", 10)):
            limit = getattr(self, name)
            if limit is not None and limit < least:
                raise ValueError(f"{name} must be at least {least}, or null for all, got {limit}")
        if self.exposure is Exposure.idx and not self.exposure_images:
            raise ValueError("exposure=idx needs exposure_images, the path of an idx file of images")
        if self.exposure is not Exposure.idx and self.exposure_images:
            raise ValueError(f"exposure_images is for exposure=idx only, exposure is {self.exposure.name}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")

    @property
    def has_exposure(self) -> bool:
        return self.exposure is not Exposure.none

    def read_digits(self, is_train: bool) -> Masks:
        """All digits of the official part, with official indices as ids."""
        images, classes = read_files(MNIST, self.root, self.download, self.cache_dir, is_train)
        return Masks(images, classes, numbered("train" if is_train else "test", range(len(images))))

    def read_grey_exposure(self, normals: np.ndarray) -> Masks | None:
        """The exposure in random order, without what equals one of the grey (N, 28, 28) `normals`."""
        found = read_exposure(
            self.exposure,
            self.exposure_images,
            self.root,
            self.download,
            self.cache_dir,
            self.exposure_limit,
            self.seed,
        )
        return found and without_normals(found, normals, self.exposure_limit)
