"""The page of a comparison: what each run says of an image, and what it would have to see changed, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from cfexplain.inspection.base import Verdict
from cfexplain.inspection.changes import measured_change
from cfexplain.inspection.sentences import change_words
from cfexplain.lazy import Tensor
from cfexplain.reporting.grids import as_picture, signed_difference
from cfexplain.reporting.html import document, facts_table, metrics_table
from cfexplain.reporting.tables import as_text, Meanings
from cfexplain.reporting.verdict_words import logit_words, WORDS

COUNTED = ("anomalous", *Verdict)
STYLE = """
.image { border-top: 1px solid #8886; padding: .8rem 0; } .image h3 { margin: 0 0 .4rem; font-size: 1rem; }
.sides { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
.side { flex: 1 1 17rem; max-width: 30rem; } .side p { margin: 0 0 .4rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; width: 6.5rem; }
figure img { width: 6.5rem; image-rendering: pixelated; border: 1px solid #8886; }
figcaption { font-size: .8rem; line-height: 1.25; overflow-wrap: anywhere; }
.mark { font-weight: 600; border: 2px solid; border-radius: 4px; padding: 0 .4rem; margin-left: .5rem; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
@media print { .image { break-inside: avoid; } }
"""


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


def write_comparison(
    file: Path, title: str, facts: Mapping[str, object], metrics: Mapping[str, float | str], meanings: Meanings,
    notes: Sequence[str], images: Sequence[ComparedImage],
) -> None:
    """images: those that are shown, in their order. metrics: of commands/comparison/compare.py; those of a run end in its name."""
    names = [view.name for view in images[0].views]
    of_runs = _of_runs(metrics, names)
    shared = {key: value for key, value in metrics.items() if key not in of_runs}
    seen = {verdict for image in images for view in image.views for verdict in view.verdicts}
    words = "".join(
        f"<dt>{escape(WORDS[verdict].label)}</dt><dd>{escape(WORDS[verdict].meaning)}</dd>"
        for verdict in Verdict if verdict in seen
    )
    parts = [
        f"<h1>{escape(title)}</h1>", facts_table(facts),
        "<h2>How often they agree</h2>", metrics_table(shared, meanings, {}),
        "<h2>What each says</h2>", _runs_table(of_runs, names),
        *(f"<p>Note: {escape(note)}</p>" for note in notes),
        "<p>Scores of different detectors are on different scales: read each against its own threshold.</p>",
        f"<h2>Images, disagreements first ({len(images)} of {metrics['num_images']})</h2>",
        "<p>The last picture of a run shows what its best concept changed: blue darker, red brighter.</p>",
        *(_image(image) for image in images),
        f"<h2>Verdicts</h2><dl>{words}</dl>",
    ]
    document(file, title, "\n".join(parts), STYLE)


def _of_runs(metrics: Mapping[str, float | str], names: Sequence[str]) -> dict[str, float | str]:
    """Those of one run, and of what one run makes of another's images."""
    counts = [f"num_{what}_{name}" for what in COUNTED for name in names]
    convinced = [f"{name}_convinces_{other}" for name in names for other in names]
    return {key: metrics[key] for key in (*counts, *convinced) if key in metrics}


def _runs_table(of_runs: Mapping[str, float | str], names: Sequence[str]) -> str:
    """A line a run: how many images it calls anomalous, their best concepts' verdicts, who accepts its images."""
    headings = {what: f"num_{what}_{{}}" for what in COUNTED}
    headings |= {f"accepted by {other}": f"{{}}_convinces_{other}" for other in names}
    head = "".join(f"<th>{escape(heading.replace('_', ' '))}</th>" for heading in ("run", *headings))
    rows = [
        f"<tr><th>{name}</th>"
        + "".join(f"<td class=number>{as_text(of_runs.get(key.format(name), '-'))}</td>" for key in headings.values())
        + "</tr>"
        for name in names
    ]
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def sentence(view: RunView) -> str:
    """The run's judgement, and what it would have to see changed."""
    score, limit = logit_words(view.source_logit), logit_words(view.threshold)
    if not view.is_anomalous:
        return f"Normal: score {score}, limit {limit}. Nothing would have to change."
    after, verdict = logit_words(float(view.logits[view.best])), WORDS[view.verdicts[view.best]].label
    start = f"Anomalous: score {score}, limit {limit}."
    if view.verdicts[view.best] is Verdict.not_flipped:
        return f"{start} No change tried is enough: the lowest score reached is {after}."
    change = change_words(measured_change(view.source, view.counterfactuals[view.best]))
    said = [f"{start} Normal with {change}: score {after} (concept {view.best}, {verdict})."]
    said += [f"{name} {'accepts' if accepts else 'does not accept'} it." for name, accepts in view.accepted_by.items()]
    return " ".join(said)


def _image(image: ComparedImage) -> str:
    name = f"{image.id} ({image.class_name})" if image.class_name else image.id
    first = image.views[0]
    views = "".join(_view(view) for view in image.views)
    return (
        f"<section class=image><h3>{escape(name)}<span class=mark>{image.mark}</span></h3><div class=sides>"
        f"{_figure(first.source.numpy(), 'the image', image.id)}{views}</div></section>"
    )


def _view(view: RunView) -> str:
    figures = [
        _figure(pixels.numpy(), f"concept {concept}: {logit_words(float(view.logits[concept]))}, "
                f"{WORDS[view.verdicts[concept]].label}", f"run {view.name}, counterfactual of concept {concept}")
        for concept, pixels in enumerate(view.counterfactuals)
    ]
    change = signed_difference(view.source.numpy(), view.counterfactuals[view.best].numpy())
    name = f"change of concept {view.best}"
    figures.append(_figure(change, name, f"run {view.name}, {name}"))
    return (
        f"<div class=side><p><b>{escape(view.name)}</b> {escape(sentence(view))}</p>"
        f"<div class=pictures>{''.join(figures)}</div></div>"
    )


def _figure(pixels: np.ndarray, caption: str, alt: str) -> str:
    """(C, H, W) uint8; the browser enlarges it."""
    buffer = io.BytesIO()
    as_picture(pixels).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}" loading=lazy>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
