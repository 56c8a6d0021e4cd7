"""A user's own pictures, brought to the size and channels that a model knows."""

from __future__ import annotations

import glob

import numpy as np
from PIL import Image, UnidentifiedImageError

from cfexplain.errors import ConfigError, DataError
from cfexplain.types import ANOMALOUS, ImageSet, ImageShape


def find_images(patterns: list[str]) -> list[str]:
    """Files of all patterns, each once, sorted; every pattern must match something."""
    files: set[str] = set()
    for pattern in patterns:
        found = glob.glob(pattern, recursive=True)
        if not found:
            raise DataError(f"images: nothing matches {pattern}")
        files.update(found)
    return sorted(files)


def load_images(files: list[str], image_shape: ImageShape) -> ImageSet:
    """Resized to H x W; grey or RGB as the model wants it. They count as anomalous, of no known class."""
    import torch

    num_channels, height, width = image_shape
    modes = {1: "L", 3: "RGB"}
    if num_channels not in modes:
        raise ConfigError(f"images: the model takes {num_channels} channels, a picture gives 1 or 3")
    arrays = []
    for file in files:
        try:
            with Image.open(file) as picture:
                small = picture.convert(modes[num_channels]).resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"images: cannot read {file}: {error}; leave it out of images=") from error
        arrays.append(np.asarray(small).reshape(height, width, num_channels).transpose(2, 0, 1))
    count = len(files)
    return ImageSet(
        images=torch.from_numpy(np.stack(arrays).copy()),
        labels=torch.full((count,), ANOMALOUS),
        classes=torch.full((count,), -1),
        ids=tuple(files),
    )
