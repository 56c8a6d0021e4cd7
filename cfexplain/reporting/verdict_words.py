"""What a verdict means, for someone who knows no machine learning."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.inspection.base import Verdict
from cfexplain.reporting.grids import score_of


@dataclass(frozen=True, kw_only=True)
class VerdictWords:
    """tone: holds, fails or neither; it chooses colour and mark, which say nothing that `label` does not."""

    label: str
    tone: str
    meaning: str


WORDS = {
    Verdict.already_normal: VerdictWords(
        label="already normal", tone="neither",
        meaning="The detector does not flag the image itself: there is nothing to explain.",
    ),
    Verdict.not_flipped: VerdictWords(
        label="not flipped", tone="fails",
        meaning="The detector still flags the changed image: this change does not explain the alarm.",
    ),
    Verdict.adversarial: VerdictWords(
        label="adversarial", tone="fails",
        meaning="The detector accepts the changed image only just as it stands: an alteration that keeps what it "
                "shows, or a second detector, brings the alarm back. Do not trust it.",
    ),
    Verdict.off_manifold: VerdictWords(
        label="off manifold", tone="fails",
        meaning="The detector accepts the changed image, but it is farther from the normal images than these are from "
                "each other: it need not look like one.",
    ),
    Verdict.duplicate: VerdictWords(
        label="duplicate", tone="neither",
        meaning="The detector accepts the changed image, but an earlier concept makes the same change.",
    ),
    Verdict.ok: VerdictWords(
        label="ok", tone="holds",
        meaning="The detector accepts the changed image, also after alterations; it is as near to the normal images "
                "as these are to each other, and no earlier concept makes the same change.",
    ),
}


def logit_words(logit: float) -> str:
    """The score in [0, 1] of a logit; never 0.000 or 1.000, which no score is."""
    score = score_of(logit)
    if score < 0.0005:
        return "below 0.001"
    return "above 0.999" if score > 0.9995 else f"{score:.3f}"
