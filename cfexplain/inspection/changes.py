"""What a counterfactual changes, measured: how much of the image, where, its colour, and whether the outline stays.

The outline is that of what differs from a plain border; where the border is not plain (photographs, textures) there is
none, and colours are those of the part that changes, the more so where it changes most.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.distance import LEVELS_PER_UNIT, VISIBLE_CHANGE

VISIBLE = VISIBLE_CHANGE * LEVELS_PER_UNIT  # levels of 255
PLAIN_LEVELS = 24  # a border pixel belongs to a plain border if it is this close to the border's colour
PLAIN_SHARE = 0.75  # of the border's pixels; a generator may stain a few
FOREGROUND = 0.35  # of the largest difference from the border's colour: half-lit edges of a shape count
SMALLEST_FOREGROUND, LARGEST_FOREGROUND = 0.01, 0.8  # shares of the image
CONCENTRATED = 0.6  # share of the change's energy that makes one part of the image its place

CELLS = (
    "in the upper left", "at the top", "in the upper right", "on the left", "in the middle", "on the right",
    "in the lower left", "at the bottom", "in the lower right",
)  # fmt: skip
ROWS = ("in the upper part", "across the middle", "in the lower part")
COLUMNS = ("on the left side", "from top to bottom in the middle", "on the right side")
EVERYWHERE = "all over the image"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Of one image and its counterfactual; shares are of the image's pixels.

    share:           of pixels that change visibly in some channel.
    brighter, darker: of pixels whose mean over the channels rises or falls visibly.
    mean:            mean |x_k - x| over pixels and channels, as a share of the whole range 0 to 255.
    place:           where, to be read after a verb: "in the upper left", "all over the image".
    colours:         names before and after, equal where the hue stays; None for grey images.
    light:           mean level after minus before, of what has these colours, over 255.
    outline_overlap: intersection over union of the silhouettes; None where an image has no plain border.
    """

    share: float
    brighter: float
    darker: float
    mean: float
    place: str
    colours: tuple[str, str] | None
    light: float
    outline_overlap: float | None


def measured_change(source: Tensor, target: Tensor) -> Change:
    """source, target: (C, H, W) uint8."""
    before, after = source.float(), target.float()
    edit = after - before
    is_changed = edit.abs().amax(dim=0) > VISIBLE  # (H, W)
    shapes = silhouette(source), silhouette(target)
    strength = edit.square().sum(dim=0) * is_changed
    overlap, parts = None, (strength, strength)
    if shapes[0] is not None and shapes[1] is not None:
        overlap = float((shapes[0] & shapes[1]).sum() / (shapes[0] | shapes[1]).sum())
        parts = tuple(shape & is_changed if (shape & is_changed).any() else shape for shape in shapes)
    means = [_mean_colour(image, part) for image, part in zip((before, after), parts, strict=True)]
    return Change(
        share=float(is_changed.float().mean()),
        brighter=float((edit.mean(dim=0) > VISIBLE).float().mean()),
        darker=float((edit.mean(dim=0) < -VISIBLE).float().mean()),
        mean=float(edit.abs().mean() / 255),
        place=place_of(edit.square().sum(dim=0)),
        colours=_colours(means) if len(source) == 3 else None,
        light=float(means[1].mean() - means[0].mean()) / 255,
        outline_overlap=overlap,
    )


def silhouette(image: Tensor) -> Tensor | None:
    """(C, H, W) uint8 -> (H, W) bool, what differs from the border's colour; None without a plain border or a shape."""
    pixels = image.float()
    border = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]], dim=1)
    colour = border.median(dim=1, keepdim=True).values  # (C, 1)
    stains = (border - colour).abs().amax(dim=0)
    if (stains < PLAIN_LEVELS).float().mean() < PLAIN_SHARE:
        return None
    differences = (pixels - colour[..., None]).abs().amax(dim=0)
    largest = differences.flatten().quantile(0.99)  # a stray pixel does not count
    roughness = 2 * float(stains.quantile(0.9))  # what a textured ground differs by is no shape
    shape = differences > max(PLAIN_LEVELS, FOREGROUND * float(largest), roughness)
    return shape if SMALLEST_FOREGROUND <= shape.float().mean() <= LARGEST_FOREGROUND else None


def place_of(energy: Tensor) -> str:
    """(H, W) >= 0 -> the smallest part of the image that holds most of it, in words."""
    total = float(energy.double().sum())
    if total == 0:
        return EVERYWHERE
    rows = torch.stack([part.sum(dim=0) for part in energy.double().tensor_split(3, dim=0)])  # (3, W)
    cells = torch.stack([part.sum(dim=1) for part in rows.tensor_split(3, dim=1)], dim=1) / total  # (3, 3)
    height, width = energy.shape
    inner = energy.double()[height // 4 : height - height // 4, width // 4 : width - width // 4].sum() / total
    if cells.max() > CONCENTRATED:
        return CELLS[int(cells.argmax())]
    if inner > CONCENTRATED:
        return CELLS[4]
    for shares, names in ((cells.sum(dim=1), ROWS), (cells.sum(dim=0), COLUMNS)):
        if shares.max() > CONCENTRATED:
            return names[int(shares.argmax())]
    return EVERYWHERE


def _mean_colour(image: Tensor, weights: Tensor) -> Tensor:
    """(C, H, W) and (H, W) bool or >= 0 -> (C,); of the whole image where all weights are 0."""
    weights = weights if weights.any() else torch.ones_like(weights)
    return (image * weights).sum(dim=(1, 2)) / weights.sum()


def _colours(means: list[Tensor]) -> tuple[str, str]:
    before, after = (tuple(mean.tolist()) for mean in means)
    name = colour_name(*before)
    return (name, colour_name(*after)) if is_other_colour(before, after) else (name, name)


DARK, LIGHT = 0.15, 0.85  # values (largest channel) below which all is black, and above which colourless is white
COLOURLESS = 0.2  # saturation below which a colour is a grey
OTHER_HUE_DEGREES = 40  # hues as far apart as this are different colours, whatever their names
HUES = (  # up to so many degrees
    (15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (200, "cyan"), (262, "blue"), (290, "purple"),
    (335, "magenta"), (360, "red"),
)  # fmt: skip
BROWN_VALUE = 0.65  # an orange darker than this is a brown


def colour_name(red: float, green: float, blue: float) -> str:
    """Of an RGB colour, 0 to 255."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < DARK:
        return "black"
    if saturation < COLOURLESS:
        return "white" if value > LIGHT else "grey"
    name = next(name for limit, name in HUES if hue * 360 <= limit)
    return "brown" if name == "orange" and value < BROWN_VALUE else name


def is_other_colour(first: tuple[float, float, float], second: tuple[float, float, float]) -> bool:
    """Two RGB colours differ in hue, or one of them has none; brightness alone makes no other colour."""
    names = colour_name(*first), colour_name(*second)
    greys = [name in ("black", "grey", "white") for name in names]
    if any(greys):
        return not all(greys)
    hues = [colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))[0] * 360 for colour in (first, second)]
    apart = abs(hues[0] - hues[1])
    return names[0] != names[1] and min(apart, 360 - apart) >= OTHER_HUE_DEGREES
