"""The page of a comparison: what each run says of an image, and what it would have to see changed, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.explanation.explain import explain_images
from cfexplain.inspection.base import Verdict, VERDICTS
from cfexplain.inspection.changes import measured_change
from cfexplain.inspection.comparison import ComparedRun, RunVerdicts
from cfexplain.inspection.sentences import change_words
from cfexplain.lazy import Tensor, torch
from cfexplain.reporting.grids import signed_difference, spread
from cfexplain.reporting.html import write_page
from cfexplain.reporting.tables import as_text, Meanings, metric_table, Table
from cfexplain.reporting.verdict_words import logit_words, WORDS
from cfexplain.types import class_name


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What one run says of one image.

    source: (C, H, W) uint8; counterfactuals: (K, C, H, W) uint8; logits: (K,) of these; verdicts: K.
    best:   the concept that speaks for the run. accepted_by: other runs' names -> whether they accept its image.
    """

    name: str
    source: Tensor
    counterfactuals: Tensor
    logits: Tensor
    source_logit: float
    threshold: float
    verdicts: tuple[Verdict, ...]
    best: int
    accepted_by: Mapping[str, bool]

    @property
    def is_anomalous(self) -> bool:
        return self.source_logit > self.threshold

    @property
    def sentence(self) -> str:
        """The run's judgement, and what it would have to see changed."""
        score, limit = logit_words(self.source_logit), logit_words(self.threshold)
        if not self.is_anomalous:
            return f"Normal: score {score}, limit {limit}. Nothing would have to change."
        after, verdict = logit_words(float(self.logits[self.best])), WORDS[self.verdicts[self.best]].label
        start = f"Anomalous: score {score}, limit {limit}."
        if self.verdicts[self.best] is Verdict.not_flipped:
            return f"{start} No change tried is enough: the lowest score reached is {after}."
        change = change_words(measured_change(self.source, self.counterfactuals[self.best]))
        others = [
            f" {name} {'accepts' if accepts else 'does not accept'} it." for name, accepts in self.accepted_by.items()
        ]
        return f"{start} Normal with {change}: score {after} (concept {self.best}, {verdict}).{''.join(others)}"

    def caption(self, concept: int) -> str:
        score, verdict = logit_words(float(self.logits[concept])), WORDS[self.verdicts[concept]].label
        return f"concept {concept}: {score}, {verdict}"

    @property
    def change(self) -> np.ndarray:
        """(3, H, W) uint8, of the best concept."""
        return signed_difference(self.source.numpy(), self.counterfactuals[self.best].numpy())


@dataclass(frozen=True, kw_only=True)
class ComparedImage:
    id: str
    class_name: str
    views: tuple[RunView, ...]

    @property
    def mark(self) -> str:
        """Whether the runs disagree, in a word."""
        if len({view.is_anomalous for view in self.views}) > 1:
            return "disagree"
        return "other verdicts" if len({view.verdicts[view.best] for view in self.views}) > 1 else "same"


def shown_images(verdicts: list[RunVerdicts], num_images: int) -> list[int]:
    """Images to be drawn: those of which the runs disagree, then those with other verdicts, then the rest.

    Of a kind with more than there is room for, evenly spread ones.
    """
    anomalous = np.stack([part.is_anomalous.numpy() for part in verdicts], axis=1)
    codes = np.stack([part.best_codes for part in verdicts], axis=1)
    disagree, differ = (~(values == values[:, :1]).all(axis=1) for values in (anomalous, codes))
    chosen: list[int] = []
    for kind in (disagree, differ & ~disagree, ~differ & ~disagree):
        indices = np.flatnonzero(kind)
        chosen += [int(indices[place]) for place in spread(len(indices), num_images - len(chosen))]
    return chosen


def compared_image(
    runs: list[ComparedRun], verdicts: list[RunVerdicts], index: int, device: torch.device
) -> ComparedImage:
    """What is shown of an image; it is explained once more, so that no others need to be kept."""
    place = runs[0].images.names.index(verdicts[0].names[index])
    views = []
    for run, part in zip(runs, verdicts, strict=True):
        explanations = explain_images(run.model, run.images.load(range(place, place + 1)), device)
        accepted = [] if part.accepted is None else part.accepted[index].tolist()
        views.append(RunView(
            name=run.name,
            source=explanations.sources.images[0],
            counterfactuals=explanations.counterfactuals[0],
            logits=explanations.logits[0, 0],
            source_logit=float(part.logits_before[index]),
            threshold=run.reference.threshold,
            verdicts=tuple(VERDICTS[code] for code in part.codes[index].tolist()),
            best=int(part.concepts[index]),
            accepted_by={other.name: is_accepted for other, is_accepted in zip(runs, accepted) if other is not run},
        ))
    return ComparedImage(
        id=verdicts[0].names[index], views=tuple(views),
        class_name=class_name(int(verdicts[0].classes[index]), runs[0].images.class_names),
    )


def write_comparison(
    file: Path, title: str, facts: Mapping[str, object], metrics: Mapping[str, float | str], meanings: Meanings,
    notes: Sequence[str], images: Sequence[ComparedImage],
) -> None:
    """images: those that are shown, in their order. metrics: those of one run end in its name."""
    names = [view.name for view in images[0].views]
    counts = {what: f"num_{what}_{{}}" for what in ("anomalous", *Verdict)}
    counts |= {f"accepted by {other}": f"{{}}_convinces_{other}" for other in names}
    keys = {name: [key.format(name) for key in counts.values()] for name in names}
    of_runs = {key for of_run in keys.values() for key in of_run}
    shared = {key: value for key, value in metrics.items() if key not in of_runs}
    headings = [heading.replace("_", " ") for heading in ("run", *counts)]
    rows = [[name, *(as_text(metrics.get(key, "-")) for key in keys[name])] for name in names]
    seen = {verdict for image in images for view in image.views for verdict in view.verdicts}
    write_page(
        file, "comparison.html", title=title, facts=facts, metrics=metric_table(shared, meanings), notes=notes,
        runs=Table(headings=headings, rows=rows, numbers=headings[1:]), images=images,
        num_images=metrics["num_images"], verdicts=[WORDS[verdict] for verdict in Verdict if verdict in seen],
    )
