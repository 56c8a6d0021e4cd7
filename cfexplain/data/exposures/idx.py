"""28x28 images from idx files as exposure for MNIST's digits: letters, clothes, or any file of that form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.idx import EMNIST_LETTERS, FASHION_IMAGES, idx_files, read_idx_images, read_idx_set
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Idx(ExposureSpec):
    """images: path of an idx3 file of 28x28 unsigned bytes, .gz or not."""

    images: str

    def pictures(self, request: ExposureRequest) -> RawImages:
        return exposure_images(read_idx_images(Path(self.images).expanduser()))


@dataclass(frozen=True, kw_only=True)
class Emnist(ExposureSpec):
    """Handwritten letters (Cohen et al., 2017), the usual exposure for MNIST; only a download writes to root."""

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> RawImages:
        """Upright: the files hold them transposed."""
        found = read_idx_set(EMNIST_LETTERS, self.root, self.download, is_train=True)
        return exposure_images(found.images.transpose(0, 2, 1))


@dataclass(frozen=True, kw_only=True)
class Fashion(ExposureSpec):
    """Clothes (Xiao et al., 2017): of MNIST's form and of another kind. Only training images are read."""

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> RawImages:
        (path,) = idx_files(FASHION_IMAGES, self.root, self.download)
        return exposure_images(read_idx_images(path))
