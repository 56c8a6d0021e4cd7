"""Handwritten letters (Cohen et al., 2017) through torchvision: the usual exposure for MNIST."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.reading.pictures import Pictures
from cfexplain.data.reading.torchvision_files import EMNIST_LETTERS, read_files
from cfexplain.data.splitting import numbered


@dataclass(frozen=True, kw_only=True)
class Emnist(ExposureSpec):
    """root: folder that holds EMNIST/raw, packed or not; only a download writes there."""

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> Pictures:
        """Upright: the files hold them transposed."""
        images, _ = read_files(
            EMNIST_LETTERS, self.root, self.download, request.cache_dir, is_train=True, group="exposure"
        )
        return Pictures(
            images.transpose(0, 2, 1), np.full(len(images), -1), numbered("exposure", range(len(images)))
        )
