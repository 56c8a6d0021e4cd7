"""The inspector, report.html: a summary, a list of all images with filters, and a card for each. One file that opens
offline; it is written image by image, so that memory does not grow with their number."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from cfexplain.files import replacing
from cfexplain.inspection.base import Inspection, VERDICTS
from cfexplain.reporting.card_content import card_content, CardContent
from cfexplain.reporting.card_tiles import as_webp, card_tiles, LOSSY_QUALITY, num_sprite_columns, sprite
from cfexplain.reporting.grids import draw_grid, FALLING, GridRow, NEUTRAL, RISING, signed_difference
from cfexplain.reporting.html import metrics_table
from cfexplain.reporting.tables import Meanings, NOTHING
from cfexplain.reporting.verdict_words import WORDS
from cfexplain.types import class_name

PAGE = Path(__file__).with_name("inspector_page")
SCRIPTS = ("pictures.js", "card.js", "list.js")
CONTENT_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
NUM_STILLS = 50  # images that are shown without JavaScript
MAX_LOSSLESS_BYTES = 500_000_000  # of all pictures before compression; a browser opens a page of this size


@dataclass(frozen=True, kw_only=True)
class Section:
    """A further part of the report, such as the concept atlas.

    notes: paragraphs. headings, rows: one table, none without rows. pictures: caption, which is also the text for those
    who do not see the picture, and picture.
    """

    title: str
    notes: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    pictures: Sequence[tuple[str, Image]]


class InspectorItems:
    """What the page holds of each image, one after another in a temporary file: its head tells of all of them.

    class_names: empty for one's own images. num_images: how many there will be.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], num_images: int) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)
        self.counts: Counter[str] = Counter()  # of the verdicts
        self.layout: dict[str, Any] = {}
        self._class_names, self._num_images, self._num_written = class_names, num_images, 0

    def add(self, inspection: Inspection, sentences: Sequence[Sequence[str]]) -> None:
        """sentences: of each image."""
        self.counts.update(VERDICTS[code].value for code in inspection.verdict_codes.flatten().tolist())
        classes = inspection.explanations.sources.classes
        for index, said in enumerate(sentences):
            tiles = card_tiles(inspection, index)
            self.layout = self.layout or _layout(inspection, tiles, self._num_images)
            content = card_content(inspection, index, said, class_name(int(classes[index]), self._class_names))
            self.file.write(_item(content, sprite(tiles, self.layout["lossless"])).encode())
            if self._num_written < NUM_STILLS:
                self.file.write(_still(content, tiles).encode())
            self._num_written += 1


def write_inspector(
    file: Path, title: str, facts: Mapping[str, object], counts: Mapping[str, int], items: InspectorItems, *,
    false_alarm_rate: float, metrics: Mapping[str, float | str], meanings: Meanings, notes: Sequence[str] = (),
    sections: Sequence[Section] = (), reported: Mapping[str, float] = NOTHING,
) -> None:
    """facts: what a reader must know first: trained model, detector, threshold and its rule.

    counts: verdict -> how many of all images under all concepts have it, as in samples.csv; AssertionError where the
    items say otherwise. false_alarm_rate: Reference's. metrics, meanings, reported: as in html.write_report.
    notes: caveats.
    """
    assert items.counts == Counter(counts), f"verdicts counted {dict(items.counts)}, given {dict(counts)}"
    with items.file, replacing(file) as out:
        out.write(_head(title, facts, counts, metrics_table(metrics, meanings, reported) if metrics else "", notes,
                        sections).encode())
        items.file.seek(0)
        shutil.copyfileobj(items.file, out)
        out.write(_tail(title, false_alarm_rate, items.layout).encode())


def _layout(inspection: Inspection, tiles: Mapping[str, np.ndarray], num_images: int) -> dict[str, Any]:
    """What is the same for all images. Lossless, unless all pictures together are more than a browser can hold."""
    num_bytes = num_images * sum(tile.size for tile in tiles.values())
    height, width = tiles["image"].shape[1:]
    return {
        "height": height, "width": width, "tiles": list(tiles), "columns": num_sprite_columns(len(tiles)),
        "concepts": inspection.explanations.num_concepts, "bins": inspection.explanations.images.shape[1],
        "lossless": num_bytes <= MAX_LOSSLESS_BYTES,
    }


def _head(
    title: str, facts: Mapping[str, object], counts: Mapping[str, int], metrics: str, notes: Sequence[str],
    sections: Sequence[Section],
) -> str:
    parts = {"summary": "Summary"} | ({"metrics": "Metrics"} if metrics else {}) | {"images": "Images"}
    parts |= {f"section-{number}": section.title for number, section in enumerate(sections)}
    links = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in parts.items())
    noted = "".join(f"<p>Note: {escape(note)}</p>" for note in notes)
    measured = _part("metrics", "Metrics", metrics + noted) if metrics else ""
    summary = _part("summary", "Summary", _facts(facts) + _counts(counts) + ("" if metrics else noted))
    body = "\n".join([
        '<a class="skip" href="#images">Skip to the images</a>',
        f"<header><h1>{escape(title)}</h1><nav class=parts aria-label=\"Parts of the report\">{links}</nav></header>",
        '<main>\n<div id="overview">', summary, measured, _part("images", "Images", LIST),
        *(_section(number, section) for number, section in enumerate(sections)), "</div>", CARD,
    ])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{(PAGE / 'page.css').read_text(encoding='utf-8')}</style>"
        "<noscript><style>.scripted { display: none; } #data { display: block; }</style></noscript></head>\n"
        f'<body>\n{body}\n<div id="data">\n'
    )


CARD = """<div id="card-view" hidden>
<nav class="card-nav" aria-label="Images"><a href="#images">Back to the list</a>
<button type="button" id="previous-image">Previous</button><button type="button" id="next-image">Next</button>
<span id="place" class="place muted"></span></nav>
<article id="card" aria-labelledby="card-title"></article></div>"""

LIST = f"""<noscript><p>This browser runs no JavaScript: the first {NUM_STILLS} images follow at the end of the page,
without filters.</p></noscript>
<div class="scripted"><form id="filters" class="filters" role="search" aria-label="Filter the images">
<label>Name<input type="search" name="name" autocomplete="off"></label>
<label>Verdict<select name="verdict"></select></label>
<label>Concept<select name="concept"></select></label>
<label>Class<select name="class_name"></select></label>
<label>Order<select name="order"><option value="given">as explained</option>
<option value="highest">highest score first</option><option value="lowest">lowest score first</option>
<option value="name">name</option></select></label></form>
<p id="count" role="status">Loading the images.</p>
<ol id="entries" class="entries"></ol>
<nav id="pager" class="pager" aria-label="Pages" hidden><button type="button" id="previous-page">Previous page</button>
<button type="button" id="next-page">Next page</button></nav></div>"""


def _part(name: str, title: str, content: str) -> str:
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{content}</section>'


def _facts(facts: Mapping[str, object]) -> str:
    lines = [f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()]
    return f"<dl class=facts>{''.join(lines)}</dl>"


def _counts(counts: Mapping[str, int]) -> str:
    """All verdicts, those that no image has too."""
    total = sum(counts.values())
    lines = []
    for verdict in VERDICTS:
        words, count = WORDS[verdict], counts.get(verdict.value, 0)
        share = f"{100 * count / total:.1f} %" if total else ""
        lines.append(
            f'<tr data-verdict="{verdict.value}"><td><span class="verdict {words.tone}">{words.label}</span>'
            f'<span class="muted meaning">{escape(words.meaning)}</span></td>'
            f"<td class=number>{count}</td><td class=number>{share}</td></tr>"
        )
    heading = '<tr><th>verdict</th><th class="number">count</th><th class="number">share</th></tr>'
    return (f"<h3>Verdicts</h3><p class=muted>One for each image and concept, {total} in all.</p>"
            f"<div class=scroll><table id=counts>{heading}{''.join(lines)}</table></div>")


def _section(number: int, section: Section) -> str:
    parts = [f"<p>{escape(note)}</p>" for note in section.notes]
    if section.rows:
        lines = ["".join(f"<th>{escape(heading)}</th>" for heading in section.headings)]
        lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in section.rows]
        parts.append(f"<div class=scroll><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>")
    for caption, picture in section.pictures:
        image = _image(caption, as_webp(picture, is_lossless=True))
        parts.append(f'<figure class="section-picture">{image}<figcaption>{escape(caption)}</figcaption></figure>')
    return _part(f"section-{number}", section.title, "".join(parts))


def _item(content: CardContent, pictures: bytes) -> str:
    """Two elements that the browser neither runs nor decodes: what is said, and the pictures."""
    encoded = base64.b64encode(pictures).decode("ascii")
    return (f'<script type="application/json" class="item">{_as_json(asdict(content))}</script>'
            f'<script type="text/plain">{encoded}</script>\n')


def _still(content: CardContent, tiles: Mapping[str, np.ndarray]) -> str:
    """For a browser without JavaScript: the image and each counterfactual with its difference, and the sentences."""
    images, captions = [tiles["image"]], ["image"]
    for number in range(len(content.concepts)):
        counterfactual = tiles[f"{number} counterfactual"]
        images += [counterfactual, signed_difference(tiles["image"], counterfactual)]
        captions += [f"concept {number}", "change"]
    picture = draw_grid([GridRow(label="", images=np.stack(images), captions=captions)])
    verdicts = "; ".join(f"concept {number}: {WORDS[concept.verdict].label}"
                         for number, concept in enumerate(content.concepts))
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in content.sentences)
    image = _image(" ".join(content.sentences), as_webp(picture, is_lossless=False))
    return (f'<noscript><section class="still"><h3>{escape(content.name)}</h3>'
            f"<p class=muted>{escape(content.class_name)} {verdicts}</p>{image}{said}</section></noscript>\n")


def _image(text: str, webp: bytes) -> str:
    source = base64.b64encode(webp).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/webp;base64,{source}">'


def _tail(title: str, false_alarm_rate: float, layout: Mapping[str, Any]) -> str:
    words = {verdict.value: asdict(WORDS[verdict]) for verdict in VERDICTS}
    scale = {"falling": FALLING.tolist(), "neutral": NEUTRAL.tolist(), "rising": RISING.tolist()}
    page = {"title": title, "falseAlarmRate": false_alarm_rate, "words": words, "scale": scale, **layout}
    scripts = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    quality = "lossless" if layout.get("lossless", True) else f"compressed with loss (WebP quality {LOSSY_QUALITY})"
    return (f'</div>\n</main>\n<footer class=muted><p>Pictures in this file: {quality}.</p></footer>\n'
            f'<script type="application/json" id="page">{_as_json(page)}</script>\n<script>\n{scripts}</script>\n'
            "</body></html>\n")


def _as_json(values: Mapping[str, Any]) -> str:
    """For a script element, which `</script` or `<!--` would end or confuse; numbers with six digits."""
    return json.dumps(_rounded(values), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, (list, tuple)) else value
