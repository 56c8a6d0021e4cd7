"""What an exposure set is: a spec, and `pictures`, which reads or makes images that are surely not normal."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cfexplain.data.reading.pictures import fitted, Pictures
from cfexplain.data.splitting import image_set, not_among
from cfexplain.errors import DataError
from cfexplain.types import ANOMALOUS, ImageSet, ImageShape

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExposureRequest:
    """Whom an exposure set is for.

    normals:      (N, C, H, W) uint8, all normal training images: none of them may be exposure.
    learned:      (M, C, H, W) uint8, those not held out: what pseudo-anomalies are made of.
    others:       training images that are not normal, for a supervised detector; or None.
    class_names:  of `others`.
    """

    normals: np.ndarray
    learned: np.ndarray
    others: Pictures | None
    class_names: tuple[str, ...]
    cache_dir: str

    @property
    def image_shape(self) -> ImageShape:
        return tuple(self.normals.shape[1:])  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class ExposureSpec(ABC):
    """A source of outlier exposure.

    limit: at most so many images; null takes all there are.
    seed:  of their order, and of what is drawn.
    """

    provides_images: ClassVar[bool] = True
    # Made of, or among, the dataset's own images, so they have its colours already.
    is_like_dataset: ClassVar[bool] = False

    limit: int | None
    seed: int

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, or null for all, got {self.limit}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def pictures(self, request: ExposureRequest) -> Pictures | None:
        """Grey or RGB uint8 images of any one size; None without exposure. DataError where files are missing."""


def load_exposure(spec: ExposureSpec, request: ExposureRequest) -> ImageSet | None:
    """The exposure set in random order: of the dataset's shape, without its normal images, at most `limit` large."""
    found = exposure_pictures(spec, request)
    if found is None:
        return None
    order = np.random.default_rng([spec.seed, 2]).permutation(len(found))[: spec.limit]
    chosen = found.take(order)
    return image_set(chosen.images, np.full(len(order), ANOMALOUS), np.full(len(order), -1), chosen.ids)


def exposure_pictures(spec: ExposureSpec, request: ExposureRequest) -> Pictures | None:
    """All of the source, in its own order: of the dataset's shape, and none equal, pixel by pixel, to a normal image.

    How many were removed is logged.
    """
    found = spec.pictures(request)
    if found is None:
        return None
    images = fitted(found.images, request.image_shape)
    is_new = not_among(images, request.normals)
    num_removed = int((~is_new).sum())
    if num_removed:
        log.warning("removed %d of %d exposure images that are also normal images", num_removed, len(is_new))
    if not is_new.any():
        raise DataError("all exposure images are normal images too. Choose another exposure=...")
    kept = np.flatnonzero(is_new)
    return Pictures(images[kept], np.full(len(kept), -1), [found.ids[i] for i in kept])
