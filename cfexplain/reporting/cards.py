"""One image's card as a picture: the same pictures, numbers and words as in the inspector, dark on white."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cfexplain.inspection.base import Inspection, NUM_WAY_STEPS, Verdict
from cfexplain.inspection.repair import way_images
from cfexplain.reporting.card_content import card_content, card_tiles, CardContent, ConceptContent, DRAWN
from cfexplain.reporting.card_plots import (
    draw_position, draw_way, font_of, LINE, MUTED, Pen, PLOT_WIDTH, TILE_SIDE, TONES,
)
from cfexplain.reporting.grids import INK, PAPER, signed_difference
from cfexplain.reporting.verdict_words import logit_words, WORDS

WIDTH, MARGIN, GAP = 1120, 24, 16  # pixels
INNER = WIDTH - 2 * MARGIN
STEP = TILE_SIDE + GAP + 8  # from picture to picture
PLOT_LEFT = WIDTH - MARGIN - PLOT_WIDTH
HEATMAP_NOTE = (
    "The heatmap (integrated gradients) shares out among the pixels what the image scores above the nearest normal "
    "image. It says where the detector looks. It does not say what the detector would accept in that place."
)


def draw_card(
    inspection: Inspection, index: int, sentences: Sequence[str], class_name: str, *, false_alarm_rate: float
) -> Image.Image:
    """RGB. false_alarm_rate: Reference's, which says where the threshold lies among the normal images' scores."""
    explanations = inspection.explanations
    content = card_content(inspection, index, sentences, class_name)
    tiles = card_tiles(inspection, index)
    here = slice(index, index + 1)
    steps = [way_images(explanations.sources.images[here], explanations.images[here], step)[0].numpy()
             for step in range(NUM_WAY_STEPS)]
    canvas = Image.new("RGB", (WIDTH, 4000 + 1500 * len(content.concepts)), PAPER)
    pen = Pen(canvas=canvas, draw=ImageDraw.Draw(canvas))
    y = _draw_head(pen, content, tiles)
    for number, concept in enumerate(content.concepts):
        y += GAP
        pen.draw.line((MARGIN, y, WIDTH - MARGIN, y), LINE)
        y = _draw_verdict(pen, y + GAP, number, concept)
        counterfactual, repair = tiles[f"{number} counterfactual"], tiles[f"{number} repair"]
        shown = {"counterfactual": counterfactual,
                 "the change: red brighter, blue darker": signed_difference(tiles["image"], counterfactual),
                 "minimal repair. " + concept.repair_words: repair,
                 "what the minimal repair changes": signed_difference(tiles["image"], repair)}
        tiles_bottom = _draw_tiles(pen, y + GAP, shown)
        way_bottom = draw_way(pen, PLOT_LEFT, y + GAP, np.array(concept.way_logits), content.threshold,
                              [images[number] for images in steps])
        y = max(tiles_bottom, way_bottom) + GAP
        bar_bottom = draw_position(pen, PLOT_LEFT, y, content.position, concept.position, 1 - false_alarm_rate)
        y = max(_draw_numbers(pen, y, content, concept), bar_bottom)
    return canvas.crop((0, 0, WIDTH, round(y) + MARGIN))


def _draw_head(pen: Pen, content: CardContent, tiles: dict[str, np.ndarray]) -> float:
    y = pen.text(MARGIN, MARGIN, content.name, 24, INK, INNER)
    facts = [f"Class {content.class_name}."] if content.class_name else []
    facts += [f"Score {logit_words(content.logit)}, {content.position_words}.",
              f"The detector flags scores above {logit_words(content.threshold)}."]
    y = pen.text(MARGIN, y + 4, " ".join(facts), 14, MUTED, INNER)
    for sentence in content.sentences:
        y = pen.text(MARGIN, y + 6, sentence, 17, INK, INNER)
    if content.gap_words:
        y = pen.text(MARGIN, y + 6, content.gap_words, 14, MUTED, INNER)
    shown = {"the image": tiles["image"], f"nearest normal image: {content.nearest_id}": tiles["nearest"],
             "heatmap: orange raises the score, purple lowers it": tiles["heatmap"]}
    if "plausible" in tiles:
        shown[DRAWN] = tiles["plausible"]
    note_bottom = pen.text(MARGIN + len(shown) * STEP, y + GAP, HEATMAP_NOTE, 13, MUTED, INNER - len(shown) * STEP)
    return max(_draw_tiles(pen, y + GAP, shown), note_bottom)


def _draw_verdict(pen: Pen, top: float, number: int, concept: ConceptContent) -> float:
    words, heading = WORDS[concept.verdict], f"Concept {number}: "
    pen.text(MARGIN, top, heading, 20, INK, INNER)
    left = MARGIN + font_of(20).getlength(heading)
    y = pen.text(left, top, words.label, 20, TONES[words.tone], INNER)
    of = f" It is concept {concept.duplicate_of}." if concept.verdict == Verdict.duplicate else ""
    return pen.text(MARGIN, y + 4, words.meaning + of, 15, INK, INNER)


def _draw_tiles(pen: Pen, top: float, shown: dict[str, np.ndarray]) -> float:
    """Side by side; caption -> picture."""
    return max(pen.tile(MARGIN + place * STEP, top, tile, caption)
               for place, (caption, tile) in enumerate(shown.items()))


def _draw_numbers(pen: Pen, y: float, content: CardContent, concept: ConceptContent) -> float:
    lines = [f"Score before: {logit_words(content.logit)}, {content.position_words}.",
             f"Score after: {logit_words(concept.bin_logits[0])}, {concept.position_words}.",
             f"Distance to the normal images: {concept.manifold_distance:.2f} times the limit that 99 % of them keep."]
    for word, is_accepted in (("Accepted", True), ("Flagged", False)):
        names = [name.replace("_", " ") for name, survives in concept.survives.items() if survives is is_accepted]
        lines += [f"{word} after alteration: {', '.join(names)}."] if names else []
    for line in lines:
        y = pen.text(MARGIN, y, line, 15, INK, PLOT_LEFT - MARGIN - 2 * GAP)
    return y
