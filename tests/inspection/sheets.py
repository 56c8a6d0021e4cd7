"""Pictures whose level says what they are."""

import torch

from cfexplain.inspection.sheet import OWN, REAL
from cfexplain.types import ImageSet

OTHERS = ("nearest", "gradient")
LEVEL = {REAL: 0, "source": 50, OWN: 100, "nearest": 150, "gradient": 200}  # of a picture, by what it is
NUM_REALS = 30


def image_set(level, size, prefix):
    images = torch.full((size, 3, 4, 5), level, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(size, dtype=torch.uint8)  # each is another
    return ImageSet(
        images=images, labels=torch.zeros(size).long(), classes=torch.zeros(size).long(),
        ids=tuple(f"{prefix}/{number}" for number in range(size)),
    )


def pictures(size, num_normals=NUM_REALS):
    """Sources, counterfactuals by their method, normals."""
    made = {method: image_set(LEVEL[method], size, method).images for method in (OWN, *OTHERS)}
    return image_set(LEVEL["source"], size, "test"), made, image_set(LEVEL[REAL], num_normals, "normal")
