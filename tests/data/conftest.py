"""Small sets in the layouts of the real ones: MNIST of rendered digits, a folder of parts; the real packs if there."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.data.datasets.folder import Folder
from cfexplain.data.rendering import render
from tests.data.folders import SIDE, draw

PACKS = Path(__file__).parents[3] / "shared" / "data"


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], Path]:
    def write(path: Path, array: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = idx_bytes(array)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write


@pytest.fixture
def small_mnist(tmp_path, write_idx) -> Path:
    """A root with 600 training and 200 test digits, all ten equally often, as .gz files."""
    root = tmp_path / "root"
    for prefix, count in (("train", 60), ("t10k", 20)):
        digits = "0123456789" * count
        write_idx(root / f"MNIST/raw/{prefix}-images-idx3-ubyte.gz", render(prefix, digits, seed=0))
        write_idx(root / f"MNIST/raw/{prefix}-labels-idx1-ubyte.gz", np.array([int(digit) for digit in digits]))
    return root


@pytest.fixture
def packs() -> Path:
    if not (PACKS / "mnist").is_dir():
        pytest.skip("no data packs in ../shared/data beside the repository")
    return PACKS


@pytest.fixture
def fields(tmp_path):
    """Fields of the specs made of MNIST, for the small root."""
    return {
        "cache_dir": str(tmp_path / "cache"),
        "held_out_fraction": 0.1,
        "normal": ["1"],
        "anomalous": None,
        "root": str(tmp_path / "root"),
        "download": False,
        "train_limit": None,
        "reference_limit": None,
        "seed": 0,
    }


@pytest.fixture
def letters():
    from cfexplain.data.exposures.letters import Letters

    return Letters(limit=50, seed=0)


@pytest.fixture
def parts(tmp_path) -> Path:
    """MVTec's layout: 20 to train on, 5 and 3 + 2 to test on, with masks."""
    root = tmp_path / "parts"
    for name, count in (("train/good", 20), ("test/good", 5), ("test/scratch", 3), ("test/dent", 2)):
        draw(root / name, count)
    for name, count in (("scratch", 3), ("dent", 2)):
        (root / "ground_truth" / name).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            mask[index : index + 4, 8:12] = 255
            Image.fromarray(mask).save(root / f"ground_truth/{name}/{index:03d}_mask.png")
    return root


@pytest.fixture
def folder(tmp_path):
    def make(root: Path | str, /, **changes) -> Folder:
        values = {
            "cache_dir": str(tmp_path / "cache"), "held_out_fraction": 0.1, "seed": 0, "root": str(root),
            "image_size": SIDE, "channels": None, "test_fraction": 0.2, "groups": None, "group_column": "group",
            "bits": None,
            "memory_limit_mb": 0, "max_unreadable_fraction": 0.0, "flip": False, "crop_padding": 0, "rotation": 0.0,
            "exposure": 0.0,
        }
        return Folder(**values | changes)

    return make
