"""Clothes (Fashion-MNIST, Xiao et al., 2017): exposure for digits, of the same 28x28 form and of another kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.reading.idx import read_idx_images
from cfexplain.data.reading.pictures import Pictures
from cfexplain.data.splitting import numbered
from cfexplain.errors import DataError
from cfexplain.lazy import torchvision

FOLDER = "FashionMNIST/raw"
FILE = "train-images-idx3-ubyte"


@dataclass(frozen=True, kw_only=True)
class Fashion(ExposureSpec):
    """root: folder that holds FashionMNIST/raw, packed or not; of its files only the training images are read.

    download: let torchvision fetch into root what is missing.
    """

    root: str
    download: bool

    def pictures(self, request: ExposureRequest) -> Pictures:
        images = read_idx_images(self._file())
        return Pictures(images, np.full(len(images), -1), numbered("exposure", range(len(images))))

    def _file(self) -> Path:
        root = Path(self.root).expanduser()
        path = _found(root)
        if path is None and self.download:
            try:
                torchvision.datasets.FashionMNIST(str(root), download=True)
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise DataError(f"download failed ({reason}). {_missing(root)}") from error
            path = _found(root)
        if path is None:
            raise DataError(_missing(root))
        return path


def _found(root: Path) -> Path | None:
    paths = (root / FOLDER / FILE, root / FOLDER / f"{FILE}.gz")
    return next((path for path in paths if path.is_file()), None)


def _missing(root: Path) -> str:
    return (
        f"Missing in {root / FOLDER}: {FILE}.gz. Put it there, set exposure.root to the folder that holds {FOLDER}, "
        "set exposure.download=true (31 MB), or read another idx file with exposure=idx exposure.images=<file>."
    )
