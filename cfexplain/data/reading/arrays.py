"""Arrays of an .npz, whose sizes are looked at before any memory is taken for them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MAX_BYTES = 2**30  # of all arrays of a file; CIFAR has 0.2 GB


def read_arrays(path: Path, names: tuple[str, ...], shape: tuple[int, ...] | None = None) -> Mapping[str, np.ndarray]:
    """Those of the names that are there. ValueError where the file declares more than it holds, than is read, or
    another shape than is wanted."""
    with zipfile.ZipFile(path) as archive:
        wanted = [member for member in archive.infolist() if member.filename.removesuffix(".npy") in names]
        if sum(member.file_size for member in wanted) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES >> 30} GB")
        for member in wanted:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
                    np.lib.format.read_array_header_2_0)
                found, _, dtype = read_header(file)
            if math.prod(found) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} declares {found} {dtype} and holds less")
            if shape is not None and found != shape:
                raise ValueError(f"{member.filename} is {found}, not {shape}")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names if name in arrays}
