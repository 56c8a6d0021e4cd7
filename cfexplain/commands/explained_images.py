"""The images that a run explains, batch by batch: test anomalies, or a user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cfexplain.commands.own_images import load_images

if TYPE_CHECKING:
    from cfexplain.types import ImageSet, ImageShape, Splits


@dataclass(frozen=True, kw_only=True)
class ExplainedImages:
    """names: of all; load: the images of a part of them; own images that cannot be read are missing there.

    class_names: of the dataset; empty for own images, which have no known class.
    """

    names: tuple[str, ...]
    load: Callable[[range], ImageSet]
    class_names: tuple[str, ...]
    are_own: bool

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the names."""
        names = "\n".join(self.names).encode("utf-8", "surrogateescape")
        return hashlib.sha256(names).hexdigest()[:16]


def own_images(files: list[str], image_shape: ImageShape) -> ExplainedImages:
    """Read when they are asked for; a single one that cannot be read is a DataError."""

    def load(part: range) -> ImageSet:
        return load_images(files[part.start : part.stop], image_shape, is_strict=len(files) == 1)

    return ExplainedImages(names=tuple(files), load=load, class_names=(), are_own=True)


def test_anomalies(splits: Splits) -> ExplainedImages:
    """Of the dataset or, where it has none, exposure images."""
    explained = splits.explained

    def load(part: range) -> ImageSet:
        import torch

        return explained.select(torch.arange(part.start, part.stop))

    return ExplainedImages(names=explained.ids, load=load, class_names=splits.class_names, are_own=False)
