"""Grids, film strips and cards of an explain run, of images that are spread evenly over all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfexplain.files import file_name
from cfexplain.inspection.base import Inspection
from cfexplain.lazy import torch
from cfexplain.reporting.cards import draw_card
from cfexplain.reporting.grids import counterfactual_grid, difference_grid, film_strip, write_picture
from cfexplain.reporting.inspector import Section
from cfexplain.types import class_name, Explanations, joined

CAPTIONS = {
    "counterfactuals": "Anomalies and their counterfactuals, with anomaly scores",
    "differences": "What changed: blue darker, red brighter",
}


class ChosenPictures:
    """Draws as the batches come by. grid, strips, cards: numbers of the images for each, among all."""

    def __init__(
        self, folder: Path, class_names: Sequence[str], false_alarm_rate: float, *, grid: Sequence[int],
        strips: Sequence[int], cards: Sequence[int],
    ) -> None:
        (folder / "images").mkdir(exist_ok=True)
        for file in (*folder.glob("cards/*.png"), *folder.glob("images/film-strip-*.png")):
            file.unlink()  # of an earlier attempt, whose images may have been others
        self.folder, self.class_names, self.false_alarm_rate = folder, class_names, false_alarm_rate
        self.grid, self.strips, self.cards = set(grid), list(strips), set(cards)
        self._num_seen = 0
        self._in_grid: Explanations | None = None

    def add(self, inspection: Inspection, sentences: Sequence[Sequence[str]]) -> None:
        """sentences: of each image."""
        explanations = inspection.explanations
        first, self._num_seen = self._num_seen, self._num_seen + len(sentences)
        rows = [row for row in range(len(sentences)) if first + row in self.grid]
        if rows:
            part = explanations.select(torch.tensor(rows))
            self._in_grid = joined([part] if self._in_grid is None else [self._in_grid, part])
        for row, texts in enumerate(sentences):
            if first + row in self.strips:
                number = self.strips.index(first + row)
                write_picture(self.folder / "images" / f"film-strip-{number}.png", film_strip(explanations, row))
            if first + row in self.cards:
                self._draw_card(inspection, row, texts)

    def overview(self) -> Section:
        """Both grids, also as files."""
        assert self._in_grid is not None
        chosen = range(len(self._in_grid.sources))
        pictures = {"counterfactuals": counterfactual_grid(self._in_grid, chosen),
                    "differences": difference_grid(self._in_grid, chosen)}
        for name, picture in pictures.items():
            write_picture(self.folder / "images" / f"{name}.png", picture)
        return Section(
            title="Overview", notes=[f"{len(chosen)} images, spread evenly over all."],
            pictures=[(CAPTIONS[name], picture) for name, picture in pictures.items()],
        )

    def _draw_card(self, inspection: Inspection, row: int, sentences: Sequence[str]) -> None:
        """cards/<name of the image>.png."""
        folder, sources = self.folder / "cards", inspection.explanations.sources
        folder.mkdir(exist_ok=True)
        name = card_name(sources.ids[row], is_own=not self.class_names)
        picture = draw_card(
            inspection, row, sentences, class_name(int(sources.classes[row]), self.class_names),
            false_alarm_rate=self.false_alarm_rate,
        )
        write_picture(folder / f"{name}.png", picture)


def card_name(image_id: str, is_own: bool) -> str:
    """Of one's own images without the folders."""
    return file_name(image_id, Path(image_id).name if is_own else None)
