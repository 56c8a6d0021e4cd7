"""Pieces that every dataset needs to become Splits: image sets from arrays, hold-out, removal of duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from cfexplain.types import ImageSet


def image_set(images: np.ndarray, labels: np.ndarray, classes: np.ndarray, ids: Sequence[str]) -> ImageSet:
    """uint8 (N, H, W) or (N, C, H, W) and their (N,) labels and classes as tensors."""
    import torch

    if images.ndim == 3:
        images = images[:, None]
    return ImageSet(
        images=torch.from_numpy(np.array(images, dtype=np.uint8)),
        labels=torch.from_numpy(np.array(labels, dtype=np.int64)),
        classes=torch.from_numpy(np.array(classes, dtype=np.int64)),
        ids=tuple(ids),
    )


def numbered(name: str, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    """Names such as 'test/00042'."""
    return tuple(f"{name}/{number:05d}" for number in numbers)


def hold_out(images: ImageSet, strata: np.ndarray, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split in two, the second with that share of each stratum ((N,) int) and at least one image of each."""
    import torch

    rng = np.random.default_rng([seed, 1])
    is_held_out = np.zeros(len(images), dtype=bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        is_held_out[members[: max(1, round(fraction * len(members)))]] = True
    mask = torch.from_numpy(is_held_out)
    return images.select(~mask), images.select(mask)


def not_among(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the uint8 images (N, ...) equal none of `others` (M, ...), pixel by pixel."""
    known = {_digest(other) for other in others}
    return np.array([_digest(image) not in known for image in images], dtype=bool)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
