"""The concept atlas as a part of the report: what each concept does over all explained images."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image

from cfexplain.inspection.atlas import ConceptAtlas, ConceptSummary
from cfexplain.inspection.base import VERDICTS
from cfexplain.reporting.grids import draw_grid, GridRow
from cfexplain.reporting.inspector import Section
from cfexplain.reporting.tables import Table

HEADINGS = ("concept", "repairs", "alone", "edits lie", "mean change", *(verdict.value for verdict in VERDICTS))
CAPTION = "typical edits, the image above and its counterfactual below; where its edits lie, dark is more"


def atlas_section(atlas: ConceptAtlas) -> Section:
    """Shares are of the images that are not already normal."""
    notes = [
        f"{atlas.num_anomalies} of {atlas.num_images} images are above the threshold; repairs: share of them with the "
        "verdict ok under this concept; alone: under no other concept.",
        _overlap_words(atlas),
    ]
    return Section(
        title="Concept atlas",
        notes=[*notes, *([f"Warning: {atlas.warning}"] if atlas.warning else [])],
        table=Table(headings=HEADINGS, rows=[_row(number, concept) for number, concept in enumerate(atlas.concepts)]),
        pictures=[
            (f"Concept {number}: {CAPTION}", _picture(atlas, number)) for number in range(len(atlas.concepts))
        ],
    )


def _overlap_words(atlas: ConceptAtlas) -> str:
    pairs = [(one, two) for two in range(len(atlas.concepts)) for one in range(two)]
    overlaps = ", ".join(f"{one} and {two}: {float(atlas.overlap[one, two]):.2f}" for one, two in pairs)
    told_apart = "" if np.isnan(atlas.accuracy) else (
        f" A simple classifier tells the concepts by their coarse edits in {100 * atlas.accuracy:.0f} % of new cases "
        f"(chance: {100 * atlas.chance:.0f} %)."
    )
    overlaps = overlaps or "one concept only"
    return f"Overlap, the mean cosine of two concepts' edits (1: the same): {overlaps}.{told_apart}"


def _row(number: int, concept: ConceptSummary) -> list[str]:
    change = " ".join(f"{value:+.2f}" for value in concept.mean_change)
    counts = [str(concept.verdicts.get(verdict, 0)) for verdict in VERDICTS]
    shares = [f"{100 * share:.1f} %" for share in (concept.repairs, concept.repairs_alone)]
    return [str(number), *shares, concept.place, change, *counts]


def _picture(atlas: ConceptAtlas, number: int) -> Image:
    concept = atlas.concepts[number]
    chosen = list(concept.examples)
    images, edited = atlas.sample_images[chosen].numpy(), atlas.sample_counterfactuals[chosen, number].numpy()
    energy = concept.energy.numpy()
    shade = 255 - np.rint(255 * energy / max(float(energy.max()), 1e-12)).astype(np.uint8)
    place = np.broadcast_to(shade, (1, images.shape[1], *shade.shape))
    blank = np.full_like(place, 255)
    return draw_grid([
        GridRow(label="image", images=np.concatenate([images, place]),
                captions=[*(f"example {index + 1}" for index in range(len(chosen))), "where"]),
        GridRow(label=f"concept {number}", images=np.concatenate([edited, blank])),
    ])
