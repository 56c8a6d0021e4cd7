"""What a card is drawn with: text that is broken into lines, pictures with captions, and its two plots."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfexplain.reporting.grids import as_picture, INK, PAPER

Colour = tuple[int, int, int]
MUTED, LINE = (86, 96, 106), (200, 205, 210)
TONES = {"holds": (0, 90, 156), "fails": (168, 67, 0), "neither": MUTED}
TILE_SIDE, PLOT_WIDTH, PLOT_HEIGHT = 168, 300, 130  # pixels
LABEL_WIDTH, LINE_HEIGHT = 74, 1.35
TICKS = (0.5, 0.01, 0.99, 0.1, 0.9, 0.0001, 0.9999)  # of the score, the first that find room


@dataclass(frozen=True, kw_only=True)
class Pen:
    """draw: of a canvas that is high enough; each method returns the y below what it has drawn."""

    canvas: Image.Image
    draw: ImageDraw.ImageDraw

    def text(self, x: float, y: float, text: str, size: int, colour: Colour, width: float) -> float:
        """Broken into lines no wider than `width`."""
        font = font_of(size)
        for line in broken(printable(text), font, width):
            self.draw.text((x, y), line, colour, font)
            y += round(size * LINE_HEIGHT)
        return y

    def tile(self, x: float, y: float, pixels: np.ndarray, caption: str) -> float:
        picture = fitted(pixels, TILE_SIDE)
        self.canvas.paste(picture, (round(x), round(y)))
        self.draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=LINE)
        return self.text(x, y + picture.height + 5, caption, 13, MUTED, max(picture.width, TILE_SIDE))


def draw_way(
    pen: Pen, left: float, top: float, logits: np.ndarray, threshold: float, way: Sequence[np.ndarray]
) -> float:
    """The score's curve over the pictures of the way, image at the left; scores spread at both ends as logits are.

    logits: one for each picture of `way`.
    """
    low, high = min(logits.min(), threshold), max(logits.max(), threshold)
    margin = 0.08 * (high - low) or 1
    step = (PLOT_WIDTH - LABEL_WIDTH) / len(logits)
    xs = left + LABEL_WIDTH + step * (np.arange(len(logits)) + 0.5)

    def height(logit: float) -> float:
        return top + PLOT_HEIGHT * (high + margin - logit) / (high - low + 2 * margin)

    small, limit = font_of(12), TONES["fails"]
    taken = [height(threshold)]
    for score in TICKS:
        y = height(float(np.log(score / (1 - score))))
        if top <= y <= top + PLOT_HEIGHT and all(abs(y - other) >= 15 for other in taken):
            taken.append(y)
            pen.draw.line((xs[0], y, xs[-1], y), LINE)
            pen.draw.text((xs[0] - 8, y), f"{score:g}", MUTED, small, anchor="rm")
    for x in np.arange(xs[0], xs[-1], 7):
        pen.draw.line((x, taken[0], min(x + 4, xs[-1]), taken[0]), limit)
    pen.draw.text((xs[0] - 8, taken[0]), "threshold", limit, small, anchor="rm")
    points = [(x, height(logit)) for x, logit in zip(xs, logits, strict=True)]
    pen.draw.line(points, INK, 2)
    for (x, y), logit in zip(points, logits, strict=True):
        pen.draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=TONES["holds"] if logit <= threshold else INK)
    y = top + PLOT_HEIGHT + 8
    small_side = int(step) - 2
    pictures = [as_picture(pixels) for pixels in way]
    scale = small_side / max(pictures[0].size)
    size = tuple(max(1, round(side * scale)) for side in pictures[0].size)
    for x, picture in zip(xs, pictures, strict=True):
        pen.canvas.paste(picture.resize(size, Image.Resampling.BOX), (round(x - size[0] / 2), round(y)))
    return pen.text(left, y + size[1] + 5, "score along the way from the image to the counterfactual; a blue point is "
                    "accepted", 13, MUTED, PLOT_WIDTH)


def draw_position(pen: Pen, left: float, top: float, before: float, after: float, limit: float) -> float:
    """Shares of normal images with a lower score, on a line from 0 to 100 %: diamond before, disc after.

    limit: the share at the threshold.
    """
    small = font_of(12)
    start, width, y = left + 10, PLOT_WIDTH - 20, top + 26
    pen.draw.line((start, y, start + width, y), MUTED, 2)
    x = start + width * limit
    pen.draw.line((x, y - 12, x, y + 12), TONES["fails"], 2)
    pen.draw.text((min(x, start + width - 16), y - 14), "threshold", TONES["fails"], small,
                  anchor="rb" if limit > 0.8 else "mb")
    x = start + width * before
    pen.draw.polygon([(x, y - 8), (x + 8, y), (x, y + 8), (x - 8, y)], PAPER, INK, 2)
    x = start + width * after
    pen.draw.ellipse((x - 6, y - 6, x + 6, y + 6), TONES["holds"], PAPER)
    for share, anchor in ((0, "la"), (0.5, "ma"), (1, "ra")):
        pen.draw.text((start + width * share, y + 14), f"{100 * share:.0f} %", MUTED, small, anchor=anchor)
    caption = "share of normal images with a lower score; diamond: the image, disc: the counterfactual"
    return pen.text(left, y + 32, caption, 13, MUTED, PLOT_WIDTH)


def fitted(pixels: np.ndarray, side: int) -> Image.Image:
    """(C, H, W) uint8 -> a picture no larger than `side`: enlarged by a whole factor, or made smaller."""
    picture, longest = as_picture(pixels), max(pixels.shape[1:])
    if longest <= side:
        return as_picture(pixels, side // longest)
    width, height = (max(1, round(length * side / longest)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def printable(text: str) -> str:
    """In the letters that Pillow's built-in font has, ASCII: without accents, and ? for what remains."""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).encode("ascii", "replace").decode()


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in one."""
    return ImageFont.load_default(size)


def length_of(text: str, font: ImageFont.FreeTypeFont) -> float:
    """In pixels, of words that are measured once: to measure a line anew takes longer than to draw it."""
    return sum(_word_length(word, font) for word in text.split(" ")) + text.count(" ") * _word_length(" ", font)


@lru_cache(maxsize=10_000)
def _word_length(word: str, font: ImageFont.FreeTypeFont) -> float:
    return font.getlength(word)


def broken(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than `width`; a word that is wider by itself is cut."""
    lines, line = [], ""
    for word in text.split(" "):
        candidate = f"{line} {word}" if line else word
        if line and length_of(candidate, font) > width:
            lines.append(line)
            candidate = word
        while length_of(candidate, font) > width and len(candidate) > 1:
            lengths = range(1, len(candidate))
            end = max(1, bisect_right(lengths, width, key=lambda end: length_of(candidate[:end], font)))
            lines.append(candidate[:end])
            candidate = candidate[end:]
        line = candidate
    return [*lines, line]
