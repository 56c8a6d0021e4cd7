"""Any images in an idx file, the format of MNIST and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.idx import read_idx_images
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Idx(ExposureSpec):
    """images: path of an idx3 file of 28x28 unsigned bytes, .gz or not."""

    images: str

    def pictures(self, request: ExposureRequest) -> RawImages:
        return exposure_images(read_idx_images(Path(self.images).expanduser()))
