"""CIFAR-10 (Krizhevsky, 2009): 32x32 RGB photographs of ten kinds of things, one or several of them normal."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.datasets.base import AugmentedDataset
from cfexplain.data.reading.cifar import CIFAR10, read_cifar, SIDE
from cfexplain.data.datasets.class_dataset import ClassDataset
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Cifar10(AugmentedDataset, ClassDataset):
    class_names = CIFAR10.class_names
    image_size = SIDE

    root: str
    download: bool

    def read(self, is_train: bool) -> RawImages:
        return read_cifar(CIFAR10, self.root, self.download, self.cache_dir, is_train)
