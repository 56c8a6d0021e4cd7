"""Grey MNIST digits (LeCun et al., 1998), one or several of them normal."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.datasets.class_dataset import ClassDataset
from cfexplain.data.reading.pictures import Pictures
from cfexplain.data.reading.torchvision_files import MNIST, read_files
from cfexplain.data.splitting import numbered


@dataclass(frozen=True, kw_only=True)
class Mnist(ClassDataset):
    """root: folder that holds MNIST/raw, packed or not; download: let torchvision fetch into it what is missing."""

    class_names = tuple("0123456789")

    root: str
    download: bool

    def read(self, is_train: bool) -> Pictures:
        images, classes = read_files(MNIST, self.root, self.download, self.cache_dir, is_train)
        return Pictures(images, classes, numbered("train" if is_train else "test", range(len(images))))
