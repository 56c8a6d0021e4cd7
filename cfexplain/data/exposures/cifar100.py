"""CIFAR-100 (Krizhevsky, 2009): photographs of a hundred kinds of things, the usual exposure for CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.cifar import CIFAR100, read_cifar
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Cifar100(ExposureSpec):
    """The training part is used."""

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> RawImages:
        found = read_cifar(CIFAR100, self.root, self.download, request.cache_dir, is_train=True)
        return exposure_images(found.images, [name.replace("train/", "exposure/", 1) for name in found.ids])
