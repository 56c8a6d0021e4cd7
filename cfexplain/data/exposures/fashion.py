"""Clothes (Fashion-MNIST, Xiao et al., 2017): exposure for digits, of the same 28x28 form and of another kind."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.idx import FASHION_IMAGES, idx_files, read_idx_images
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Fashion(ExposureSpec):
    """root: folder that holds FashionMNIST/raw, packed or not; of its files only the training images are read.

    download: let torchvision fetch into root what is missing.
    """

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> RawImages:
        path, = idx_files(FASHION_IMAGES, self.root, self.download, is_train=True, group="exposure")
        return exposure_images(read_idx_images(path))
