"""The pictures of a card: by name, and side by side in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cfexplain.inspection.base import Inspection
from cfexplain.reporting.grids import as_picture, NEUTRAL
from cfexplain.reporting.html import as_webp

LOWERS, RAISES = np.array([84, 39, 136.0]), np.array([179, 88, 6.0])  # purple and orange: not the colours of a change


def card_tiles(inspection: Inspection, index: int) -> dict[str, np.ndarray]:
    """Name -> (3, H, W) uint8: image, nearest, heatmap, then of each concept k "k counterfactual" and "k repair".

    Where there are alpha bins between 0 and 1, "k bin a" too, for each but alpha = 0, the counterfactual.
    """
    explanations = inspection.explanations
    source = explanations.sources.images[index].numpy()
    tiles = {"image": source, "nearest": inspection.nearest[index].numpy(),
             "heatmap": heatmap(inspection.heatmaps[index].numpy())}
    for concept in range(explanations.num_concepts):
        bins = explanations.images[index, :, concept].numpy()  # (A, C, H, W)
        tiles |= {
            f"{concept} counterfactual": bins[0],
            f"{concept} repair": inspection.repairs[index, concept].numpy(),
            **{f"{concept} bin {number}": bins[number] for number in range(1, len(bins)) if len(bins) > 2},
        }
    return {name: np.broadcast_to(tile, (3, *tile.shape[1:])) for name, tile in tiles.items()}


def heatmap(values: np.ndarray) -> np.ndarray:
    """(H, W) in [-1, 1] -> (3, H, W) uint8: orange where the image raises the score, purple where it lowers it."""
    strength = np.abs(values)[..., None].clip(0, 1)  # (H, W, 1)
    towards = np.where(values[..., None] < 0, LOWERS, RAISES)  # (H, W, 3)
    return np.rint(NEUTRAL + strength * (towards - NEUTRAL)).astype(np.uint8).transpose(2, 0, 1)


def num_sprite_columns(num_tiles: int) -> int:
    """As wide as high: a picture format ends at 16383 pixels a side."""
    return math.ceil(math.sqrt(num_tiles))


def sprite(tiles: Mapping[str, np.ndarray], is_lossless: bool) -> bytes:
    """WebP of all tiles, row by row in their order."""
    images = list(tiles.values())
    height, width = images[0].shape[1:]
    num_columns = num_sprite_columns(len(images))
    canvas = np.full((3, height * math.ceil(len(images) / num_columns), width * num_columns), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // num_columns * height, number % num_columns * width
        canvas[:, top : top + height, left : left + width] = image
    return as_webp(as_picture(canvas), is_lossless)
