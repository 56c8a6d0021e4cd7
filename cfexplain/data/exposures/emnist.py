"""Handwritten letters (Cohen et al., 2017) from torchvision's files: the usual exposure for MNIST."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.idx import EMNIST_LETTERS, read_idx_set
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Emnist(ExposureSpec):
    """root: folder that holds EMNIST/raw, packed or not; only a download writes there."""

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> RawImages:
        """Upright: the files hold them transposed."""
        images, _ = read_idx_set(EMNIST_LETTERS, self.root, self.download, is_train=True, group="exposure")
        return exposure_images(images.transpose(0, 2, 1))
