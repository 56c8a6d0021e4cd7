"""Grey pictures of characters in Pillow's built-in scalable font, each of its own size, weight, slant and place."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from cfexplain.data.reading.cache import cached_images

DIGITS = "0123456789"
# Upper and lower case without what passes for a digit once slanted and blurred:
# O o Q D (0), I i l j J (1), Z z (2), S s (5), b G (6), B (8), g q (9).
LETTERS = "ACEFHKLMNPRTUVWXYacdefhkmnprtuvwxy"
SIDE = 28  # pixels


class Rendering(NamedTuple):
    """Ranges that each picture's values are drawn from, uniformly. Raise `version` when the drawing itself changes."""

    version: int = 1
    font_size: tuple[float, float] = (20.0, 29.0)  # pixels of the picture; digits are 0.7 times as high
    stroke: tuple[float, float] = (0.0, 0.9)  # added on both sides of a stroke, pixels
    rotation_degrees: tuple[float, float] = (-15.0, 15.0)
    shear: tuple[float, float] = (-0.25, 0.25)
    shift: tuple[float, float] = (-2.5, 2.5)  # pixels
    blur: tuple[float, float] = (0.2, 0.6)  # standard deviation, pixels


RENDERING = Rendering()
_TEMPLATE_SCALE = 4  # templates are drawn this much larger
_TEMPLATE_SIDE = 160
_TEMPLATE_FONT_SIZE = 100
_NUM_STROKES = 6


def cached_masks(cache_dir: str, name: str, characters: str, seed: int) -> np.ndarray:
    """One (28, 28) uint8 picture, white on black, per character of the string -> (N, 28, 28).

    Drawn once per name, string and seed; the same string gives other pictures under another name.
    """
    key = (RENDERING, PIL.__version__, name, characters, seed)
    shape = (len(characters), SIDE, SIDE)
    folder = Path(cache_dir).expanduser() / "glyphs"
    return cached_images(folder, name, key, shape, lambda: render(name, characters, seed))


def render(name: str, characters: str, seed: int) -> np.ndarray:
    """The pictures of `cached_masks`, drawn anew."""
    rng = np.random.default_rng([seed, *name.encode()])
    low, high = np.array(RENDERING[1:]).T  # the ranges, (6,) each
    low, high = np.append(low, low[4]), np.append(high, high[4])  # shift counts twice, for x and y
    values = low + (high - low) * rng.random((len(characters), len(low)))
    images = np.empty((len(characters), SIDE, SIDE), dtype=np.uint8)
    for image, character, row in zip(images, characters, values.tolist(), strict=True):
        image[:] = _draw(character, *row)
    return images


def _draw(
    character: str, font_size: float, stroke: float, rotation: float, shear: float, dx: float, blur: float, dy: float
) -> np.ndarray:
    stroke_index = round(stroke / RENDERING.stroke[1] * (_NUM_STROKES - 1))
    template = _template(character, stroke_index)
    # Output pixel -> template pixel: the inverse of scale * rotation * shear, about the centres. Drawn at twice
    # the size and averaged, so that thin strokes do not break up.
    scale = _TEMPLATE_FONT_SIZE / font_size / 2
    cos, sin = scale * math.cos(math.radians(rotation)), scale * math.sin(math.radians(rotation))
    a, b, d, e = cos + shear * sin, shear * cos - sin, sin, cos
    x, y = SIDE + 2 * dx, SIDE + 2 * dy
    centre = _TEMPLATE_SIDE / 2
    matrix = (a, b, centre - a * x - b * y, d, e, centre - d * x - e * y)
    large = template.transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(large.filter(ImageFilter.GaussianBlur(2 * blur)).reduce(2))


@lru_cache(maxsize=1024)
def _template(character: str, stroke_index: int) -> Image.Image:
    """The character large, its bounding box centred."""
    font = ImageFont.load_default(size=_TEMPLATE_FONT_SIZE)
    width = stroke_index / (_NUM_STROKES - 1) * RENDERING.stroke[1] * _TEMPLATE_SCALE
    image = Image.new("L", (_TEMPLATE_SIDE, _TEMPLATE_SIDE))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), character, font=font, stroke_width=width)
    place = ((_TEMPLATE_SIDE - left - right) / 2, (_TEMPLATE_SIDE - top - bottom) / 2)
    draw.text(place, character, fill=255, font=font, stroke_width=width, stroke_fill=255)
    return image
