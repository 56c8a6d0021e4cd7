"""Pieces that every dataset needs to become Splits: hold-out, removal of duplicates, and who is used for what."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import DataError
from cfexplain.lazy import torch
from cfexplain.types import ImageSet, Splits


def image_set(raw: RawImages, labels: np.ndarray | int) -> ImageSet:
    """A copy as tensors; labels: (N,) int, or one for all."""
    images = raw.images[:, None] if raw.images.ndim == 3 else raw.images
    return ImageSet(
        images=torch.from_numpy(np.array(images, dtype=np.uint8)),
        labels=torch.from_numpy(np.array(np.broadcast_to(labels, len(raw)), dtype=np.int64)),
        classes=torch.from_numpy(np.array(raw.classes, dtype=np.int64)),
        ids=tuple(raw.ids),
    )


def hold_out(
    images: ImageSet, strata: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[ImageSet, ImageSet]:
    """Split in two, the second with that share of each stratum ((N,) int) and at least one image of each."""
    mask = torch.from_numpy(held_out_mask(strata, fraction, seed, groups))
    return images.select(~mask), images.select(mask)


def held_out_mask(strata: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """(N,) bool: that share of each stratum, and at least one image of it.

    groups: (N,) int, kept together; whole groups are then taken until the share is reached, and one always stays.
    """
    rng = np.random.default_rng([seed, 1])
    is_held_out = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        wanted = max(1, round(fraction * len(members)))
        if groups is None:
            is_held_out[members[:wanted]] = True
            continue
        in_order = list(dict.fromkeys(groups[members].tolist()))
        for group in in_order[:-1]:
            if is_held_out[members].sum() < wanted:
                is_held_out[members[groups[members] == group]] = True
    if is_held_out.all() or not is_held_out.any():
        in_groups = "" if groups is None else f" (in {len(np.unique(groups))} groups)"
        raise DataError(f"too few normal images to hold some out: {len(strata)}{in_groups}")
    return is_held_out


def not_among(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the uint8 images (N, ...) equal none of `others` (M, ...), pixel by pixel."""
    known = {_digest(other) for other in others}
    return np.array([_digest(image) not in known for image in images], dtype=bool)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()


def counts(splits: Splits) -> str:
    """How many images are used for what, in one line."""
    parts = {
        "train": splits.train, "held out": splits.held_out, "exposure": splits.exposure,
        "test normal": splits.test_normals, "test anomalous": splits.test_anomalies,
    }
    sizes = ", ".join(f"{name} {0 if part is None else len(part)}" for name, part in parts.items())
    return f"images: {sizes}; {'x'.join(map(str, splits.image_shape))}"


def role_table(splits: Splits) -> tuple[tuple[str, int, str], ...]:
    """Rows (group, number of images, what it is used for), in the order of the splits and their classes."""
    rows = [
        *_rows(splits, splits.train, "training, normal"),
        *_rows(splits, splits.held_out, "held out, normal: calibration and threshold"),
    ]
    if splits.exposure is not None:
        rows.append(("exposure", len(splits.exposure), "training, anomalous"))
    rows += _rows(splits, splits.test_normals, "test, normal")
    rows += _rows(splits, splits.test_anomalies, "test, anomalous")
    return tuple(rows)


def role_lines(splits: Splits) -> tuple[str, ...]:
    """The table as aligned text."""
    rows = role_table(splits)
    widths = max(len(group) for group, _, _ in rows), max(len(f"{count:,}") for _, count, _ in rows)
    return tuple(f"{group:<{widths[0]}}  {count:>{widths[1]},}  {role}" for group, count, role in rows)


def _rows(splits: Splits, images: ImageSet, role: str) -> list[tuple[str, int, str]]:
    counts = Counter(images.classes.tolist())
    return [(splits.class_names[index], counts[index], role) for index in sorted(counts)]
