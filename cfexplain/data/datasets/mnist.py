"""Grey MNIST digits (LeCun et al., 1998), one or several of them normal."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.datasets.class_dataset import ClassDataset
from cfexplain.data.reading.idx import MNIST, read_idx_set
from cfexplain.data.reading.raw_images import RawImages


@dataclass(frozen=True, kw_only=True)
class Mnist(ClassDataset):
    class_names = tuple("0123456789")

    root: str
    download: bool

    def read(self, is_train: bool) -> RawImages:
        return read_idx_set(MNIST, self.root, self.download, is_train)
