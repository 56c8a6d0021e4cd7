"""Images as files hold them, before it is said which are normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RawImages:
    """images: (N, H, W) or (N, C, H, W) uint8; classes: (N,) int, -1 for none; ids: N names.

    groups: (N,) int, images of one group (shots of one traffic sign) stay on one side of every split; or None.
    """

    images: np.ndarray
    classes: np.ndarray
    ids: Sequence[str]
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: np.ndarray) -> RawImages:
        """Those at the (M,) int indices, in that order."""
        groups = None if self.groups is None else self.groups[chosen]
        return RawImages(self.images[chosen], self.classes[chosen], [self.ids[i] for i in chosen], groups)


def numbered(name: str, images: np.ndarray, classes: np.ndarray) -> RawImages:
    """With ids such as 'test/00042'."""
    return RawImages(images, classes, tuple(f"{name}/{number:05d}" for number in range(len(images))))
