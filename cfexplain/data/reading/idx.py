"""idx files (the format of MNIST and its kin), gzipped or not: bytes checked before anyone reads them."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from cfexplain.errors import DataError

_UBYTE = 8
_SIDE = 28


def read_bytes(path: Path) -> bytes:
    """The file's content, unpacked where it ends in .gz. DataError where it is missing, cut short or not gzip."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}). Check the path and its permissions.") from error


def idx_shape(content: bytes, path: Path, num_dimensions: int) -> tuple[int, ...]:
    """The shape its header gives. DataError, naming the file, unless unsigned bytes of just that shape follow."""
    end = 4 * (num_dimensions + 1)
    if len(content) < end or content[:4] != bytes([0, 0, _UBYTE, num_dimensions]):
        kind = {1: "idx1 labels", 3: "idx3 images"}[num_dimensions]
        raise DataError(f"{path} is no {kind} file (wrong header). Fetch it again or name another file.")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, end, 4))
    if len(content) - end != math.prod(shape):
        sizes = f"{len(content) - end} bytes of data, {math.prod(shape)} by its header"
        raise DataError(f"{path} is damaged ({sizes}). Fetch it again.")
    if num_dimensions == 3 and (shape[1:] != (_SIDE, _SIDE) or not shape[0]):
        count, height, width = shape
        raise DataError(f"{path} holds {count} images of {height}x{width} pixels; {_SIDE}x{_SIDE} are needed.")
    return shape


def read_idx_images(path: Path) -> np.ndarray:
    """(N, 28, 28) uint8."""
    content = read_bytes(path)
    shape = idx_shape(content, path, 3)
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(shape)
