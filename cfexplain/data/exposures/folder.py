"""Any folder of images, or a .zip of one, as outlier exposure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.image_cache import check_source, mapped_images
from cfexplain.data.reading.image_files import find_image_files
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import DataError
from cfexplain.files import printable


@dataclass(frozen=True, kw_only=True)
class FolderImages(ExposureSpec):
    root: str
    max_unreadable_fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.root, self.max_unreadable_fraction)

    @property
    def name(self) -> str:
        return "folder"

    def pictures(self, request: ExposureRequest) -> RawImages:
        """`limit` files drawn at random, at the dataset's shape: the others are not decoded."""
        root = unpacked(Path(self.root), request.cache_dir)
        files = find_image_files(root)
        if not files:
            raise DataError(f"no images (.png, .jpg, .tif ...) in {self.root}. Set exposure.root to a folder of some.")
        drawn = np.random.default_rng([self.seed, 4]).permutation(len(files))[: self.limit]
        files = [files[index] for index in np.sort(drawn)]
        cached = mapped_images(files, request.image_shape, request.cache_dir, 0, self.max_unreadable_fraction)
        ids = [f"exposure/{printable(files[index].relative_to(root))}" for index in cached.indices]
        return exposure_images(cached.images, ids)
