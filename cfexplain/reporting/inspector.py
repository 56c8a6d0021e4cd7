"""The inspector, report.html: a summary, a list of all images with filters, and a card for each. One file that opens
offline; it is written image by image, so that memory does not grow with their number."""

from __future__ import annotations

import base64
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from cfexplain.detectors.base import DetectorSpec
from cfexplain.inspection.base import Inspection, VERDICTS
from cfexplain.inspection.reference import REFIT
from cfexplain.lazy import torch, torchvision
from cfexplain.metrics.classifiers import RANDOM
from cfexplain.reporting.card_content import card_content, card_tiles
from cfexplain.reporting.grids import (
    as_picture, draw_grid, FALLING, GridRow, NEUTRAL, RISING, score_of, signed_difference,
)
from cfexplain.reporting.html import as_webp, LOSSY_QUALITY, page_parts, write_page
from cfexplain.reporting.tables import Meanings, metric_table, Table
from cfexplain.reporting.verdict_words import WORDS
from cfexplain.types import class_name

LOSSY = f"compressed with loss (WebP quality {LOSSY_QUALITY})"
PIECE = 2**20  # characters of the items that are read at a time
NUM_STILLS = 50  # images that are shown without JavaScript
MAX_LOSSLESS_BYTES = 500_000_000  # of all pictures before compression; a browser opens a page of this size


@dataclass(frozen=True, kw_only=True)
class Section:
    """A further part of the report, such as the concept atlas.

    notes: paragraphs. pictures: caption, which is also the text for those who do not see the picture, and picture.
    """

    title: str
    notes: Sequence[str]
    pictures: Sequence[tuple[str, Image]]
    table: Table | None = None


class InspectorItems:
    """What the page holds of each image, one after another in a temporary file: its head tells of all of them.

    class_names: empty for one's own images. num_images: how many there will be.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], num_images: int) -> None:
        self.file = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", newline="")
        self.counts: Counter[str] = Counter()  # of the verdicts
        self.layout: dict[str, Any] = {}
        self._class_names, self._num_images, self._num_written = class_names, num_images, 0

    def add(self, inspection: Inspection, sentences: Sequence[Sequence[str]]) -> None:
        """sentences: of each image."""
        self.counts.update(VERDICTS[code].value for code in inspection.verdict_codes.flatten().tolist())
        classes = inspection.explanations.sources.classes
        for index, texts in enumerate(sentences):
            tiles = card_tiles(inspection, index)
            self.layout = self.layout or _layout(inspection, tiles, self._num_images)
            content = card_content(inspection, index, texts, class_name(int(classes[index]), self._class_names))
            values = {
                "content": content, "values": asdict(content), "words": WORDS,
                "sprite": base64.b64encode(_sprite(tiles, self.layout)).decode("ascii"),
                "still": _still(tiles, len(content.concepts)) if self._num_written < NUM_STILLS else None,
            }
            self.file.writelines(page_parts("inspector_item.html", **values))
            self._num_written += 1


def write_inspector(
    file: Path, title: str, facts: Mapping[str, object], counts: Mapping[str, int], items: InspectorItems, *,
    false_alarm_rate: float, metrics: Mapping[str, float | str], meanings: Meanings, notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
) -> None:
    """facts: what a reader must know first: trained model, detector, threshold and its rule.

    counts: verdict -> how many of all images under all concepts have it, as in samples.csv; AssertionError where the
    items say otherwise. false_alarm_rate: Reference's. metrics, meanings: as in html.write_report.
    notes: caveats.
    """
    assert items.counts == Counter(counts), f"verdicts counted {dict(items.counts)}, given {dict(counts)}"
    words = {verdict.value: WORDS[verdict] for verdict in VERDICTS}
    page = {
        "title": title, "falseAlarmRate": false_alarm_rate,
        "words": {verdict: asdict(meaning) for verdict, meaning in words.items()},
        "scale": {"falling": FALLING.tolist(), "neutral": NEUTRAL.tolist(), "rising": RISING.tolist()}, **items.layout,
    }
    with items.file:
        items.file.seek(0)
        write_page(
            file, "inspector.html", title=title, facts=facts, counts=counts, num_verdicts=sum(counts.values()),
            notes=notes, metrics=metric_table(metrics, meanings), sections=sections,
            verdicts=words, items=iter(lambda: items.file.read(PIECE), ""), num_stills=NUM_STILLS, page=page,
            quality="lossless" if items.layout.get("lossless", True) else LOSSY,
        )


def explanation_facts(
    folder: Path, detector: DetectorSpec, index: Mapping[str, Any], num_images: int, detector_auroc: float | None
) -> dict[str, object]:
    """What the page says first. folder, detector: of the train run; index: of its SavedInspections."""
    rate, second, survival = index["false_alarm_rate"], index["second_detector"], index["normal_survival"]
    passing = {} if survival is None else {
        "of real normal images": f"{100 * survival:.0f} % of those that count as normal pass all alterations and the "
                                 "second detector: what to compare the verdict adversarial with"
    }
    confined = {"edits": "only within the region given by mask or box"} if index.get("region_digest") else {}
    known = {} if detector_auroc is None else {"on test images": f"detector_auroc {detector_auroc:.3f}"}
    return {
        "trained model": folder,
        "detector": detector.name,
        **known,
        "images explained": num_images,
        **confined,
        "counts as normal": f"score at or below {score_of(index['threshold']):.4g}: {1 - rate:.4g} of "
                            f"{index['num_held_out']} held-out normal images lie there (false-alarm rate {rate:.4g})",
        "second detector": _refitted(detector) if second == REFIT else second,
        **passing,
        "distances to normal images": "in features of a network with random weights" if index["features"] == RANDOM
                                      else f"in features of the network {index['features']}",
    }


def _refitted(detector: DetectorSpec) -> str:
    if detector.second is detector:
        return "the same kind, another seed"
    return f"{detector.second.name}, trained on the same data: {detector.name} cannot be trained again"


def _layout(inspection: Inspection, tiles: Mapping[str, np.ndarray], num_images: int) -> dict[str, Any]:
    """What is the same for all images. Lossless, unless all pictures together are more than a browser can hold."""
    num_bytes = num_images * sum(tile.size for tile in tiles.values())
    height, width = tiles["image"].shape[1:]
    return {
        "height": height, "width": width, "tiles": list(tiles),
        "columns": math.ceil(math.sqrt(len(tiles))),  # as wide as high: a picture format ends at 16383 pixels a side
        "concepts": inspection.explanations.num_concepts, "bins": inspection.explanations.images.shape[1],
        "lossless": num_bytes <= MAX_LOSSLESS_BYTES,
    }


def _sprite(tiles: Mapping[str, np.ndarray], layout: Mapping[str, Any]) -> bytes:
    """WebP of all tiles, row by row in their order."""
    images = torch.from_numpy(np.stack(list(tiles.values())))
    grid = torchvision.utils.make_grid(images, nrow=layout["columns"], padding=0, pad_value=255)
    return as_webp(as_picture(grid.numpy()), layout["lossless"])


def _still(tiles: Mapping[str, np.ndarray], num_concepts: int) -> Image:
    """For a browser without JavaScript: the image and each counterfactual with its difference."""
    images, captions = [tiles["image"]], ["image"]
    for number in range(num_concepts):
        counterfactual = tiles[f"{number} counterfactual"]
        images += [counterfactual, signed_difference(tiles["image"], counterfactual)]
        captions += [f"concept {number}", "change"]
    return draw_grid([GridRow(label="", images=np.stack(images), captions=captions)])
