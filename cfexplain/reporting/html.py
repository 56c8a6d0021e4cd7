"""Pages from the templates beside this file: each self-contained, readable offline, in a light and a dark scheme."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
from PIL.Image import Image

from cfexplain.files import replacing
from cfexplain.reporting.grids import as_picture
from cfexplain.reporting.tables import Meanings, method_table, metric_table, NOTHING

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
LOSSY_QUALITY = 90


def write_report(
    file: Path, title: str, facts: Mapping[str, object], pictures: Sequence[tuple[str, Path]],
    metrics: Mapping[str, float | str], meanings: Meanings, notes: Sequence[str] = (),
    reported: Mapping[str, float] = NOTHING,
) -> None:
    """facts: what a reader must know first; pictures: caption and PNG file, embedded; notes: caveats of the numbers.

    reported: the paper's numbers, by the keys of `metrics`.
    """
    write_page(
        file, "report.html", title=title, facts=facts, notes=notes, methods=method_table(metrics, meanings),
        metrics=metric_table(metrics, meanings, reported),
        pictures=[(caption, data_uri(picture.read_bytes())) for caption, picture in pictures],
    )


def write_page(file: Path, template: str, **values: Any) -> None:
    """Piece by piece, so that what a template takes from an iterator need not be in memory at once."""
    with replacing(file) as out:
        for text in page_parts(template, **values):
            out.write(text.encode())


def page_parts(template: str, **values: Any) -> Iterator[str]:
    return _environment().get_template(template).generate(**values)


def data_uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def as_webp(picture: Image, is_lossless: bool) -> bytes:
    buffer = io.BytesIO()
    # Effort: `method` 4 would make a lossless sprite 4 % smaller and take three times as long.
    quality = {"lossless": True, "method": 1, "quality": 50} if is_lossless else {"quality": LOSSY_QUALITY}
    picture.save(buffer, format="WEBP", **quality)
    return buffer.getvalue()


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def json_text(values: Mapping[str, Any]) -> str:
        """For a script element, which `</script` or `<!--` would end or confuse; numbers with six digits."""
        rounded = json.loads(json.dumps(values), parse_float=lambda text: float(f"{float(text):.6g}"))
        text = json.dumps(rounded, ensure_ascii=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c"))

    found = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["content_of"] = lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8"))
    found.filters |= {
        "json_text": json_text, "png_uri": _png_uri,
        "webp_uri": lambda picture, is_lossless: data_uri(as_webp(picture, is_lossless), "webp"),
    }
    return found


def _png_uri(pixels: np.ndarray) -> str:
    """(C, H, W) uint8; the browser enlarges it."""
    buffer = io.BytesIO()
    as_picture(pixels).save(buffer, format="PNG")
    return data_uri(buffer.getvalue())
