"""Basic names of colours, as one would say them of a part on the table."""

from __future__ import annotations

import colorsys

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
