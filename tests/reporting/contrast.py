"""How well the texts of a page stand out, as WCAG 2.1 reckons it."""

import re

import numpy as np

MIN_CONTRAST = 4.5  # of level AA
# Of each text that is seen: its colour and the first opaque background at or above it.
COLOURS = """() => [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && !element.closest("svg, [disabled]")
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((element) => {
    let behind = element;
    while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    return [getComputedStyle(element).color, getComputedStyle(behind ?? document.documentElement).backgroundColor,
      element.textContent.trim().slice(0, 30)];
  })"""


def contrasts(page) -> dict[str, float]:
    """Text -> ratio, from 1 to 21."""
    return {text: _ratio(colour, behind) for colour, behind, text in page.evaluate(COLOURS)}


def luminance(colour: str) -> float:
    """Relative, in [0, 1], of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _ratio(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
