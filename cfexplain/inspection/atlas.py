"""What each concept does over all explained images, gathered in one pass with flat memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from cfexplain.inspection.atlas_sample import (
    accuracy_margin, anomalous_rows, concept_accuracy, edit_directions, medoids, Sample,
)
from cfexplain.inspection.base import Inspection, Verdict, VERDICTS
from cfexplain.inspection.changes import place_of, VISIBLE
from cfexplain.inspection.verdicts import SAME_COSINE
from cfexplain.lazy import F, Tensor, torch


@dataclass(frozen=True, kw_only=True)
class ConceptSummary:
    """Of one concept; shares are of the images that are not already normal.

    verdicts:    how many of all images have each verdict.
    repairs, repairs_alone: share with verdict ok, and with verdict ok while no other concept has it.
    energy:      (H, W) float32, where its edits lie: the mean share of an edit's squared change at each pixel.
    place:       the same in words.
    mean_change: (C,) mean level after minus before of what changes visibly, over 255.
    examples:    rows of ConceptAtlas.sample_* that stand for the concept, the medoid first.
    """

    verdicts: dict[Verdict, int]
    repairs: float
    repairs_alone: float
    energy: Tensor
    place: str
    mean_change: tuple[float, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ConceptAtlas:
    """All concepts of a run.

    num_images, num_anomalies: of all images, and of those that are not already normal; what follows is of the latter.
    overlap:       (K, K) float32, mean cosine of two concepts' edits of the same image; near 1 they do the same.
    accuracy:      how well a nearest-centroid classifier tells the concepts by their coarse edits, images it did not
                   learn from; chance is 1 / K. nan with one concept, or too few images.
    chance, margin: 1 / K, and how far above it the accuracy must be for the concepts to count as different.
    warning:       one sentence where it is not, or where two concepts' overlap is that of duplicates; else None.
    sample_ids, sample_images, sample_counterfactuals: the drawn images behind the examples: S names, (S, C, H, W) and
                   (S, K, C, H, W) uint8.
    """

    num_images: int
    num_anomalies: int
    concepts: tuple[ConceptSummary, ...]
    overlap: Tensor
    accuracy: float
    chance: float
    margin: float
    warning: str | None
    sample_ids: tuple[str, ...]
    sample_images: Tensor
    sample_counterfactuals: Tensor


def build_atlas(inspections: Iterable[Inspection]) -> ConceptAtlas:
    """At least one batch; of any sizes, only the order of the images matters."""
    batches = iter(inspections)
    first = next(batches)
    sums, sample = _Sums(first), Sample(first)
    for batch in chain([first], batches):
        sums.add(batch)
        sample.add(batch)
    images, counterfactuals = sample.pictures()
    directions = edit_directions(images, counterfactuals)
    num_concepts = first.explanations.num_concepts
    accuracy, chance = concept_accuracy(directions), 1 / num_concepts
    margin = accuracy_margin(num_concepts, len(directions))
    overlap = (sums.cosines / max(sums.num_anomalies, 1)).float()
    return ConceptAtlas(
        num_images=sums.num_images,
        num_anomalies=sums.num_anomalies,
        concepts=tuple(
            sums.summary(concept, medoids(directions[:, concept], sample.best_rows(concept)))
            for concept in range(num_concepts)
        ),
        overlap=overlap,
        accuracy=accuracy,
        chance=chance,
        margin=margin,
        warning=_warning(accuracy, chance, margin, overlap),
        sample_ids=tuple(sample.ids),
        sample_images=images,
        sample_counterfactuals=counterfactuals,
    )


class _Sums:
    """What adds up over images, in float64."""

    def __init__(self, like: Inspection) -> None:
        num_concepts, channels, height, width = like.explanations.counterfactuals.shape[1:]
        self.num_images = self.num_anomalies = 0
        self.verdicts = torch.zeros(num_concepts, len(VERDICTS), dtype=torch.long)
        self.repairs, self.repairs_alone = torch.zeros(2, num_concepts, dtype=torch.long)
        self.cosines = torch.zeros(num_concepts, num_concepts, dtype=torch.double)
        self.energies = torch.zeros(num_concepts, height, width, dtype=torch.double)
        self.changes = torch.zeros(num_concepts, channels, dtype=torch.double)
        self.num_changed = torch.zeros(num_concepts, dtype=torch.long)  # images in which anything changes visibly

    def add(self, inspection: Inspection) -> None:
        codes = inspection.verdict_codes
        self.num_images += len(codes)
        self.verdicts += F.one_hot(codes, len(VERDICTS)).sum(dim=0)
        is_ok = codes == VERDICTS.index(Verdict.ok)
        self.repairs += is_ok.sum(dim=0)
        self.repairs_alone += (is_ok & (is_ok.sum(dim=1, keepdim=True) == 1)).sum(dim=0)
        explanations = inspection.explanations
        rows = anomalous_rows(inspection)
        for row in rows:  # one by one: memory stays flat, whatever the images' size
            source, edited = explanations.sources.images[row], explanations.counterfactuals[row]
            self._add_edits(edited.double() - source.double())
        self.num_anomalies += len(rows)

    def _add_edits(self, edits: Tensor) -> None:
        """(K, C, H, W) of one image."""
        directions = F.normalize(edits.flatten(1), dim=1)
        self.cosines += directions @ directions.T
        energies = edits.square().sum(dim=1)  # (K, H, W)
        totals = energies.sum(dim=(1, 2), keepdim=True)
        self.energies += energies / torch.where(totals > 0, totals, 1.0)
        is_changed = edits.abs().amax(dim=1) > VISIBLE
        sizes = is_changed.sum(dim=(1, 2))
        self.changes += (edits * is_changed[:, None]).sum(dim=(2, 3)) / sizes.clamp_min(1)[:, None] / 255
        self.num_changed += sizes > 0

    def summary(self, concept: int, examples: tuple[int, ...]) -> ConceptSummary:
        counts, num_anomalies = self.verdicts[concept].tolist(), max(self.num_anomalies, 1)
        energy = (self.energies[concept] / num_anomalies).float()
        return ConceptSummary(
            verdicts=dict(zip(VERDICTS, counts, strict=True)),
            repairs=int(self.repairs[concept]) / num_anomalies,
            repairs_alone=int(self.repairs_alone[concept]) / num_anomalies,
            energy=energy,
            place=place_of(energy),
            mean_change=tuple((self.changes[concept] / max(int(self.num_changed[concept]), 1)).tolist()),
            examples=examples,
        )


def _warning(accuracy: float, chance: float, margin: float, overlap: Tensor) -> str | None:
    if accuracy <= chance + margin:  # never of nan, where nothing was compared
        return (f"the concepts can hardly be told apart: a classifier of their edits is right in {accuracy:.0%}, "
                f"chance is {chance:.0%} (different means above {chance + margin:.0%})")
    largest = float((overlap - torch.eye(len(overlap))).max())
    if largest >= SAME_COSINE:
        return f"two concepts change nearly the same: their edits have a mean cosine of {largest:.2f}"
    return None
