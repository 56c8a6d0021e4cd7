"""What a card says and shows of one image, for the page and for the picture alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cfexplain.inspection.base import Inspection, Verdict
from cfexplain.inspection.sentences import percent, position_words
from cfexplain.reporting.grids import NEUTRAL
from cfexplain.reporting.verdict_words import logit_words

DRAWN = "drawn as a normal image, without the detector"
LOWERS, RAISES = np.array([84, 39, 136.0]), np.array([179, 88, 6.0])  # purple and orange: not the colours of a change


@dataclass(frozen=True, kw_only=True)
class ConceptContent:
    """bin_logits: of the alpha bins, alpha = 0 first; way_logits: Inspection's.

    repair_words: what share of the change the minimal repair does without, and its score.
    survives: alteration -> the altered counterfactual is still accepted.
    """

    verdict: Verdict
    duplicate_of: int
    position: float
    position_words: str
    bin_logits: tuple[float, ...]
    way_logits: tuple[float, ...]
    repair_words: str
    manifold_distance: float
    survives: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """`logit`, `position`: of the image; the others in ConceptContent are the counterfactual's.

    gap_words: how much less satisfies the detector than lies between the image and a plausible normal one.
    """

    name: str
    class_name: str
    sentences: tuple[str, ...]
    logit: float
    position: float
    position_words: str
    threshold: float
    nearest_id: str
    gap_words: str
    concepts: tuple[ConceptContent, ...]


def card_content(inspection: Inspection, index: int, sentences: Sequence[str], class_name: str) -> CardContent:
    explanations = inspection.explanations
    position = float(inspection.position_before[index])
    return CardContent(
        name=explanations.sources.ids[index],
        class_name=class_name,
        sentences=tuple(sentences),
        logit=float(explanations.source_logits[index]),
        position=position,
        position_words=position_words(position),
        threshold=explanations.threshold,
        nearest_id=inspection.nearest_ids[index],
        gap_words=_gap_words(inspection, index),
        concepts=tuple(_concept(inspection, index, concept) for concept in range(explanations.num_concepts)),
    )


def _concept(inspection: Inspection, index: int, concept: int) -> ConceptContent:
    explanations = inspection.explanations
    position = float(inspection.position_after[index, concept])
    return ConceptContent(
        verdict=inspection.verdict(index, concept),
        duplicate_of=int(inspection.duplicate_of[index, concept]),
        position=position,
        position_words=position_words(position),
        bin_logits=tuple(explanations.logits[index, :, concept].tolist()),
        way_logits=tuple(inspection.way_logits[index, concept].tolist()),
        repair_words=_repair_words(inspection, index, concept),
        manifold_distance=float(inspection.manifold_distance[index, concept]),
        survives=dict(zip(inspection.alterations, inspection.survives[index, concept].tolist(), strict=True)),
    )


def _repair_words(inspection: Inspection, index: int, concept: int) -> str:
    explanations, logit = inspection.explanations, float(inspection.repair_logits[index, concept])
    if float(explanations.source_logits[index]) <= explanations.threshold:
        return "The image is accepted as it is: there is nothing to repair."
    if logit > explanations.threshold:
        return "None was found: the score stays above the threshold."
    saved = 100 * float(inspection.change_sizes.excess_change[index, concept])
    return f"It does without {saved:.0f} % of the change and scores {logit_words(logit)}."


def _gap_words(inspection: Inspection, index: int) -> str:
    """Of the least repair that was found. Empty where there is none: what the detector needs is not known then."""
    explanations = inspection.explanations
    found = inspection.repair_logits[index].numpy() <= explanations.threshold
    if float(explanations.source_logits[index]) <= explanations.threshold or not found.any():
        return ""
    least = float(inspection.change_sizes.repair_l1_distance[index][found].min())
    whole = float(inspection.plausible_distances[index])
    other = f"what is {DRAWN}," if inspection.is_drawn else "the nearest normal image"
    times = f", {whole / least:.1f} times as much" if least > 0 else ""
    return (f"The least change found that satisfies this detector is {percent(least / 2)} of the range from black to "
            f"white on average; {other} differs by {percent(whole / 2)}{times}.")


def card_tiles(inspection: Inspection, index: int) -> dict[str, np.ndarray]:
    """Name -> (3, H, W) uint8: image, nearest, heatmap, then of each concept k "k counterfactual" and "k repair".

    Where the generator draws a plausible normal image by itself, "plausible" too.

    Where there are alpha bins between 0 and 1, "k bin a" too, for each but alpha = 0, the counterfactual.
    """
    explanations = inspection.explanations
    source = explanations.sources.images[index].numpy()
    tiles = {"image": source, "nearest": inspection.nearest[index].numpy(),
             "heatmap": heatmap(inspection.heatmaps[index].numpy())}
    if inspection.is_drawn:
        tiles["plausible"] = inspection.plausible[index].numpy()
    for concept in range(explanations.num_concepts):
        bins = explanations.images[index, :, concept].numpy()  # (A, C, H, W)
        tiles |= {
            f"{concept} counterfactual": bins[0],
            f"{concept} repair": inspection.repairs[index, concept].numpy(),
            **{f"{concept} bin {number}": bins[number] for number in range(1, len(bins)) if len(bins) > 2},
        }
    return {name: np.broadcast_to(tile, (3, *tile.shape[1:])) for name, tile in tiles.items()}


def heatmap(values: np.ndarray) -> np.ndarray:
    """(H, W) in [-1, 1] -> (3, H, W) uint8: orange where the image raises the score, purple where it lowers it."""
    strength = np.abs(values)[..., None].clip(0, 1)  # (H, W, 1)
    towards = np.where(values[..., None] < 0, LOWERS, RAISES)  # (H, W, 3)
    return np.rint(NEUTRAL + strength * (towards - NEUTRAL)).astype(np.uint8).transpose(2, 0, 1)
