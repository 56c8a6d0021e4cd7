"""What an exposure set is: a spec, and `pictures`, which reads or makes images that are surely not normal."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cfexplain.checks import check_at_least, check_limits
from cfexplain.data.reading.raw_images import numbered, RawImages
from cfexplain.data.splits import image_set, not_among
from cfexplain.engine.seeding import step_generator
from cfexplain.errors import DataError
from cfexplain.lazy import Tensor, torch, v2
from cfexplain.types import ANOMALOUS, ImageSet, ImageShape, PairMaker

PART = 64  # images that are altered at a time
MAX_DRAWS = 16  # for a change that shows
INVISIBLE_LEVELS = 5  # of 255: what differs by no more counts as unchanged

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExposureRequest:
    """Whom an exposure set is for.

    normals:      (N, C, H, W) uint8, all normal training images: none of them may be exposure.
    learned:      (M, C, H, W) uint8, those not held out: what pseudo-anomalies are made of.
    class_names:  of the dataset.
    others:       training images that are not normal, for a supervised detector; or None.
    """

    normals: np.ndarray
    learned: np.ndarray
    class_names: tuple[str, ...]
    cache_dir: str
    others: RawImages | None = None

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
        check_limits(self, limit=1)
        check_at_least(self, seed=0)

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def fresh(self) -> PairMaker | None:
        """What draws new exposure images of normal ones for every batch; None where the set is all there is."""
        return None

    @abstractmethod
    def pictures(self, request: ExposureRequest) -> RawImages | None:
        """Grey or RGB uint8 images of any one size; None without exposure. DataError where files are missing."""


@dataclass(frozen=True, kw_only=True)
class PseudoAnomalies(ExposureSpec):
    """Normal training images with something done to them, where there are no natural outliers.

    Training draws new ones for every batch. `limit` of them, as many as there are normal ones where it is null, are
    kept for pictures and for whatever needs a fixed set; held-out images take no part.
    """

    is_like_dataset = True

    def pictures(self, request: ExposureRequest) -> RawImages:
        normals = request.learned
        generator = step_generator(self.seed, 3, "pseudo-anomalies")
        order = torch.randperm(len(normals), generator=generator).numpy()
        sources = np.resize(order, self.limit or len(normals))
        parts = np.split(sources, range(PART, len(sources), PART))
        made = [self.altered(torch.from_numpy(normals[part]), generator)[0].numpy() for part in parts]
        return exposure_images(np.concatenate(made))

    @property
    def fresh(self) -> PairMaker:
        return self.altered

    def altered(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pseudo-anomalies of (N, C, H, W) uint8 normal images, on their device, and (N, H, W) bool: where they differ.

        Each image has several draws, and the first that shows is taken: black pasted on black does not.
        """
        changed, masks = images, torch.zeros_like(images[:, 0], dtype=torch.bool)
        for _ in range(MAX_DRAWS):
            drawn = self.draw(images, generator)
            differs = (drawn.short() - images.short()).abs().amax(dim=1) > INVISIBLE_LEVELS
            is_new = ~masks.flatten(1).any(dim=1)[:, None, None]
            changed, masks = torch.where(is_new[:, None], drawn, changed), torch.where(is_new, differs, masks)
            if images.device.type == "cpu" and masks.flatten(1).any(dim=1).all():  # a GPU would wait for the answer
                break
        return changed, masks

    @abstractmethod
    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, H, W) uint8 normal images -> the same shape, each altered by its own draw; N is what the batch has."""


def exposure_images(images: np.ndarray, ids: Sequence[str] | None = None) -> RawImages:
    """Of none of the dataset's classes; numbered where they have no names."""
    found = numbered("exposure", images, np.full(len(images), -1))
    return replace(found, ids=ids) if ids else found


def load_exposure(spec: ExposureSpec, request: ExposureRequest) -> ImageSet | None:
    """The exposure set in random order: of the dataset's shape, without its normal images, at most `limit` large."""
    found = exposure_pictures(spec, request)
    if found is None:
        return None
    order = np.random.default_rng([spec.seed, 2]).permutation(len(found))[: spec.limit]
    return image_set(found.take(order), ANOMALOUS)


def exposure_pictures(spec: ExposureSpec, request: ExposureRequest) -> RawImages | None:
    """All of the source, in its own order: of the dataset's shape, and none equal, pixel by pixel, to a normal image.

    How many were removed is logged.
    """
    found = spec.pictures(request)
    if found is None:
        return None
    images = _fitted(found.images, request.image_shape)
    is_new = not_among(images, request.normals)
    num_removed = int((~is_new).sum())
    if num_removed:
        log.warning("removed %d of %d exposure images that are also normal images", num_removed, len(is_new))
    if not is_new.any():
        raise DataError("all exposure images are normal images too. Choose another exposure=...")
    kept = np.flatnonzero(is_new)
    return exposure_images(images[kept], [found.ids[i] for i in kept])


def _fitted(images: np.ndarray, image_shape: ImageShape) -> np.ndarray:
    """uint8 (N, H', W') or (N, C', H', W'), grey or RGB -> (N, C, H, W), resized with antialiasing where need be."""
    channels, height, width = image_shape
    if images.ndim == 3:
        images = images[:, None]
    if images.shape[1] == 3 and channels == 1:
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's mode L
        images = np.rint(np.tensordot(images, weights, axes=([1], [0])))[:, None].astype(np.uint8)
    elif images.shape[1] == 1 and channels == 3:
        images = np.repeat(images, 3, axis=1)
    assert images.shape[1] == channels, f"{images.shape[1]} channels cannot become {channels}"
    if images.shape[2:] != (height, width):
        resized = v2.functional.resize(torch.from_numpy(np.ascontiguousarray(images)), [height, width], antialias=True)
        images = resized.numpy()
    return images
