"""Ground-truth masks of defects, at the size of the images that are learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cfexplain.data.reading.image_files import opened_image
from cfexplain.errors import DataError

EXIF_ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # orientations that exchange width and height


def read_mask(path: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of `size` = (H, W): where at least half of the area is marked, or any of it if that leaves nothing.

    DataError where the mask is not as large as its image.
    """
    from PIL import Image

    height, width = size
    with opened_image(path) as mask:
        mask_size = mask.size
        marked = Image.fromarray((np.asarray(mask.convert("L")) > 0).astype(np.uint8) * 255)
    image_size = _size_or_none(image)
    if image_size not in (None, mask_size):
        sizes = f"{mask_size[0]}x{mask_size[1]} and {image} is {image_size[0]}x{image_size[1]}"
        raise DataError(f"{path} is {sizes}: a mask must be as large as its image.")
    shares = np.asarray(marked.resize((width, height), Image.Resampling.BOX))
    return shares >= 128 if (shares >= 128).any() else shares > 0


def _size_or_none(image: Path) -> tuple[int, int] | None:
    """Width and height as shown; None for a damaged image, which is another's business."""
    try:
        with opened_image(image) as opened:
            width, height = opened.size
            return (height, width) if opened.getexif().get(EXIF_ORIENTATION) in TURNED else (width, height)
    except DataError:
        return None
