"""Pictures for people: rows of images with a label at the left and a caption under each, dark on white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfexplain.data.batches import augmented
from cfexplain.files import replacing
from cfexplain.lazy import torch
from cfexplain.types import class_name, Explanations, Splits

INK, PAPER = (32, 33, 36), (255, 255, 255)
FALLING, NEUTRAL, RISING = np.array([33, 102, 172.0]), np.array([247, 247, 247.0]), np.array([178, 24, 43.0])
SIDE, GAP, TEXT_SIZE = 100, 8, 15  # pixels; SIDE is aimed at by whole-number enlargement


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """images: (N, C, H, W) uint8; captions: N texts, or none."""

    label: str
    images: np.ndarray
    captions: Sequence[str] = ()


def draw_grid(rows: Sequence[GridRow], title: str = "") -> Image.Image:
    """One line of pictures per row. Small images are enlarged by a whole factor, pixel by pixel."""
    font, bold = ImageFont.load_default(TEXT_SIZE), ImageFont.load_default(TEXT_SIZE + 3)
    height, width = rows[0].images.shape[-2:]
    factor = max(1, round(SIDE / height))
    height, width = height * factor, width * factor
    left = 2 * GAP + round(max(font.getlength(row.label) for row in rows))
    num_columns = max(len(row.images) for row in rows)
    line_heights = [height + GAP + (TEXT_SIZE + 6 if row.captions else 0) for row in rows]
    top = GAP + (TEXT_SIZE + 3 + 2 * GAP if title else 0)
    total_width = max(left + num_columns * (width + GAP), 2 * GAP + round(bold.getlength(title)))
    canvas = Image.new("RGB", (total_width, top + sum(line_heights)), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((GAP, GAP), title, INK, bold)
    for row, line_height in zip(rows, line_heights, strict=True):
        draw.text((GAP, top + height / 2), row.label, INK, font, anchor="lm")
        for column, pixels in enumerate(row.images):
            x = left + column * (width + GAP)
            canvas.paste(as_picture(pixels, factor), (x, top))
            draw.rectangle((x - 1, top - 1, x + width, top + height), outline=(190, 190, 190))
            if row.captions:
                draw.text((x + width / 2, top + height + 4), row.captions[column], INK, font, anchor="mt")
        top += line_height
    return canvas


def as_picture(pixels: np.ndarray, factor: int = 1) -> Image.Image:
    """(C, H, W) uint8, grey or RGB -> a picture, each pixel a square of `factor`."""
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def write_picture(path: Path, picture: Image.Image) -> None:
    """A PNG, whole or not at all."""
    with replacing(path) as file:
        picture.save(file, format="PNG")


def counterfactual_grid(explanations: Explanations, indices: Sequence[int]) -> Image.Image:
    """Anomalies on top, one row per concept below, the anomaly score under each."""
    chosen = list(indices)
    logits = explanations.logits[:, 0].numpy()
    rows = [_source_row(explanations, chosen)]
    for concept in range(explanations.num_concepts):
        images = explanations.counterfactuals[chosen, concept].numpy()
        rows.append(GridRow(label=f"concept {concept}", images=images, captions=_scores(logits[chosen, concept])))
    return draw_grid(rows)


def difference_grid(explanations: Explanations, indices: Sequence[int]) -> Image.Image:
    """Anomalies on top, then what each concept changed: blue darker, red brighter, pale unchanged."""
    chosen = list(indices)
    sources = explanations.sources.images[chosen].numpy()
    rows = [_source_row(explanations, chosen)]
    for concept in range(explanations.num_concepts):
        edited = explanations.counterfactuals[chosen, concept].numpy()
        pictures = np.stack([signed_difference(a, b) for a, b in zip(sources, edited, strict=True)])
        rows.append(GridRow(label=f"change {concept}", images=pictures))
    return draw_grid(rows)


def film_strip(explanations: Explanations, index: int) -> Image.Image:
    """One anomaly: a row per concept, the wanted score falling from left to right, the reached score under each."""
    num_bins = explanations.images.shape[1]
    order = list(range(num_bins - 1, -1, -1))
    source = explanations.sources.images[index : index + 1].numpy()
    source_caption = _scores(explanations.source_logits[index : index + 1].numpy())
    rows = []
    for concept in range(explanations.num_concepts):
        images = explanations.images[index, order, concept].numpy()
        captions = _scores(explanations.logits[index, order, concept].numpy())
        rows.append(GridRow(label=f"concept {concept}", images=np.concatenate([source, images]),
                            captions=source_caption + captions))
    wanted = ", ".join(f"{bin_index / max(num_bins - 1, 1):.2g}" for bin_index in order)
    return draw_grid(rows, f"{explanations.sources.ids[index]}: the anomaly, then wanted scores {wanted}")


def preview_grid(splits: Splits, num_images: int = 12) -> Image.Image:
    """What the model will see: normal training images, exposure, and both halves of the test set.

    Below the normal images: how they look in a training batch, where they are augmented.
    """
    parts = {"normal": splits.train, "exposure": splits.exposure, "test normal": splits.test_normals,
             "test anomalous": splits.test_anomalies}
    rows = []
    for label, part in parts.items():
        if part is not None and len(part):
            chosen = spread(len(part), num_images)
            names = [class_name(index, splits.class_names) for index in part.classes[chosen].tolist()]
            rows.append(GridRow(label=label, images=part.images[chosen].numpy(), captions=names))
        if label == "normal" and splits.augmentation is not None:
            images = augmented(part.images[chosen], splits.augmentation, torch.Generator().manual_seed(0))
            rows.append(GridRow(label="augmented", images=images.numpy()))
    return draw_grid(rows)


def signed_difference(source: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """(C, H, W) uint8 twice -> (3, H, W) uint8 on a diverging scale.

    Strength is the largest change of any channel, so that a change of hue alone shows; the sign is brightness's.
    """
    change = edited.astype(int) - source.astype(int)  # whole numbers: a sum of exactly 0 is no rounding error's sign
    strength = np.abs(change).max(axis=0)[..., None] / 255  # (H, W, 1)
    towards = np.where(change.sum(axis=0)[..., None] < 0, FALLING, RISING)  # (H, W, 3)
    return np.rint(NEUTRAL + strength * (towards - NEUTRAL)).astype(np.uint8).transpose(2, 0, 1)


def spread(num_images: int, num_wanted: int) -> list[int]:
    """Indices spread evenly over a set, the same each time."""
    num_wanted = min(num_images, num_wanted)
    return [round(index) for index in np.linspace(0, num_images - 1, num_wanted)] if num_wanted else []


def as_scores(logits: np.ndarray) -> np.ndarray:
    """Anomaly scores in [0, 1] of logits."""
    return 1 / (1 + np.exp(-np.clip(logits.astype(float), -700, 700)))


def score_of(logit: float) -> float:
    return float(as_scores(np.array(float(logit))))


def _source_row(explanations: Explanations, chosen: list[int]) -> GridRow:
    captions = _scores(explanations.source_logits.numpy()[chosen])
    return GridRow(label="anomaly", images=explanations.sources.images[chosen].numpy(), captions=captions)


def _scores(logits: np.ndarray) -> list[str]:
    return [f"{score:.2f}" for score in as_scores(logits)]
