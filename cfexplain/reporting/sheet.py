"""sheet.html: pairs of pictures for people to judge, one at a time. It does not say which is which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfexplain.inspection.sheet import Pair, Question, SIDES
from cfexplain.reporting.html import write_page

FILE = "sheet.html"
WORDS = {
    Question.real: "Which of the two is real?",
    Question.explains: "Which explains the alarm better?",
}


def write_sheet(file: Path, pairs: Sequence[Pair], sheet: str) -> None:
    """sheet: the digest that answers are tied to."""
    shown = [
        {"question": WORDS[pair.question], "sides": list(zip(SIDES, pair.images.numpy(), strict=True)),
         "anomaly": None if pair.anomaly is None else pair.anomaly.numpy()}
        for pair in pairs
    ]
    write_page(file, "sheet.html", title="Two pictures, one question", sheet=sheet, pairs=shown)
