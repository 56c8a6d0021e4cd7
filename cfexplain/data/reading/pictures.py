"""Pictures as files hold them, before they are cut into splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cfexplain.lazy import torch, v2


@dataclass(frozen=True)
class Pictures:
    """images: (N, H, W) or (N, C, H, W) uint8; classes: (N,) int, -1 for none; ids: N names.

    groups: (N,) int, pictures of one group (shots of one traffic sign) stay on one side of every split; or None.
    """

    images: np.ndarray
    classes: np.ndarray
    ids: Sequence[str]
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: np.ndarray) -> Pictures:
        """Those at the (M,) int indices, in that order."""
        groups = None if self.groups is None else self.groups[chosen]
        return Pictures(self.images[chosen], self.classes[chosen], [self.ids[i] for i in chosen], groups)


def fitted(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
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
