"""What each concept does over all explained images, gathered in one pass with flat memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.inspection.base import Inspection, Verdict, VERDICTS
from cfexplain.inspection.changes import place_of, VISIBLE
from cfexplain.inspection.inspect import SAME_COSINE
from cfexplain.lazy import F, Tensor, torch

SAMPLE_IMAGES, SAMPLE_BYTES = 500, 1 << 26  # so many of all images, or fewer where they are large
FEWEST_IMAGES = 20
NUM_EXAMPLES = 3
GRID = 8  # cells a side of a coarse edit
NUM_FOLDS = 5
LEAST_MARGIN = 0.1


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


class AtlasBuilder:
    """What adds up over images, in float64, and a sample of them. Batches of any sizes: only the order matters."""

    def __init__(self, like: Inspection) -> None:
        """like: an inspection of the images to come, whose sizes count."""
        self.sample = Sample(like)
        num_concepts, channels, height, width = like.explanations.counterfactuals.shape[1:]
        self.num_images = self.num_anomalies = 0
        self.verdicts = torch.zeros(num_concepts, len(VERDICTS), dtype=torch.long)
        self.repairs, self.repairs_alone = torch.zeros(2, num_concepts, dtype=torch.long)
        self.cosines = torch.zeros(num_concepts, num_concepts, dtype=torch.double)
        self.energies = torch.zeros(num_concepts, height, width, dtype=torch.double)
        self.changes = torch.zeros(num_concepts, channels, dtype=torch.double)
        self.num_changed = torch.zeros(num_concepts, dtype=torch.long)  # images in which anything changes visibly

    def add(self, inspection: Inspection) -> None:
        self.sample.add(inspection)
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

    def atlas(self) -> ConceptAtlas:
        """Of what was added so far."""
        images, counterfactuals = self.sample.pictures()
        directions = edit_directions(images, counterfactuals)
        num_concepts = len(self.repairs)
        accuracy, chance = concept_accuracy(directions), 1 / num_concepts
        margin = accuracy_margin(num_concepts, len(directions))
        overlap = (self.cosines / max(self.num_anomalies, 1)).float()
        return ConceptAtlas(
            num_images=self.num_images,
            num_anomalies=self.num_anomalies,
            concepts=tuple(
                self._summary(concept, medoids(directions[:, concept], self.sample.best_rows(concept)))
                for concept in range(num_concepts)
            ),
            overlap=overlap,
            accuracy=accuracy,
            chance=chance,
            margin=margin,
            warning=_warning(accuracy, chance, margin, overlap),
            sample_ids=tuple(self.sample.ids),
            sample_images=images,
            sample_counterfactuals=counterfactuals,
        )

    def _summary(self, concept: int, examples: tuple[int, ...]) -> ConceptSummary:
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


def anomalous_rows(inspection: Inspection) -> list[int]:
    """Images that are not already normal."""
    is_normal = inspection.verdict_codes[:, 0] == VERDICTS.index(Verdict.already_normal)
    return (~is_normal).nonzero().flatten().tolist()


class Sample:
    """Anomalies drawn alike from a stream of unknown length (reservoir sampling, Vitter, 1985); always the same."""

    def __init__(self, like: Inspection) -> None:
        self.shape = like.explanations.counterfactuals.shape[1:]  # K, C, H, W
        size = math.prod(self.shape) // self.shape[0] * (self.shape[0] + 1)
        self.limit = min(SAMPLE_IMAGES, max(FEWEST_IMAGES, SAMPLE_BYTES // size))
        self.ids: list[str] = []
        self._drawn: list[tuple[Tensor, Tensor, Tensor]] = []  # source, counterfactuals, verdict codes
        self._num_seen = 0
        self._generator = torch.Generator().manual_seed(0)

    def add(self, inspection: Inspection) -> None:
        sources, edited = inspection.explanations.sources, inspection.explanations.counterfactuals
        for row in anomalous_rows(inspection):
            self._num_seen += 1
            slot = len(self.ids)
            if slot == self.limit:
                slot = int(torch.randint(self._num_seen, (), generator=self._generator))
                if slot >= self.limit:
                    continue
            drawn = sources.images[row].clone(), edited[row].clone(), inspection.verdict_codes[row].clone()
            self.ids[slot : slot + 1] = [sources.ids[row]]
            self._drawn[slot : slot + 1] = [drawn]

    def pictures(self) -> tuple[Tensor, Tensor]:
        """(S, C, H, W) and (S, K, C, H, W) uint8."""
        if not self._drawn:
            empty = torch.zeros(0, *self.shape, dtype=torch.uint8)
            return empty[:, 0], empty
        images, counterfactuals, _ = zip(*self._drawn, strict=True)
        return torch.stack(images), torch.stack(counterfactuals)

    def best_rows(self, concept: int) -> list[int]:
        """Rows with verdict ok under the concept; where there are none, those that count as normal; else all."""
        codes = [int(codes[concept]) for _, _, codes in self._drawn]
        for failing in ([verdict for verdict in VERDICTS if verdict is not Verdict.ok], [Verdict.not_flipped]):
            rows = [row for row, code in enumerate(codes) if VERDICTS[code] not in failing]
            if rows:
                return rows
        return list(range(len(codes)))


def edit_directions(images: Tensor, counterfactuals: Tensor) -> Tensor:
    """(S, C, H, W) and (S, K, C, H, W) uint8 -> (S, K, D): coarse edits of length 1, or 0 where nothing changed."""
    coarse = [
        F.adaptive_avg_pool2d(edited.float() - image.float(), min(GRID, *image.shape[1:])).flatten(1)
        for image, edited in zip(images, counterfactuals, strict=True)
    ]
    if not coarse:
        return torch.zeros(0, counterfactuals.shape[1], 1)
    return F.normalize(torch.stack(coarse), dim=2)


def medoids(directions: Tensor, rows: list[int]) -> tuple[int, ...]:
    """Of these rows of (S, D) the medoid first, then those that leave least of the others' distances unexplained.

    Greedy k-medoids (BUILD of PAM, Kaufman & Rousseeuw, 1990).
    """
    if not rows:
        return ()
    distances = torch.cdist(directions[rows], directions[rows], compute_mode="donot_use_mm_for_euclid_dist")
    chosen = [int(distances.sum(dim=1).argmin())]
    while len(chosen) < min(NUM_EXAMPLES, len(rows)):
        nearest = distances[chosen].amin(dim=0)
        gains = (nearest - distances).clamp_min(0).sum(dim=1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
    return tuple(rows[number] for number in chosen)


def concept_accuracy(directions: Tensor) -> float:
    """(S, K, D): how often the nearest of the concepts' mean directions, taken from other images, is the right one.

    All edits of an image are in the same one of NUM_FOLDS parts. nan with one concept or fewer than two images.
    """
    num_images, num_concepts = directions.shape[:2]
    if num_concepts < 2 or num_images < 2:
        return math.nan
    folds = torch.arange(num_images) % NUM_FOLDS
    num_right = 0
    for fold in folds.unique():
        centroids = directions[folds != fold].mean(dim=0)  # (K, D)
        predicted = torch.cdist(directions[folds == fold], centroids[None]).argmin(dim=2)  # (n, K)
        num_right += int((predicted == torch.arange(num_concepts)).sum())
    return num_right / (num_images * num_concepts)


def accuracy_margin(num_concepts: int, num_images: int) -> float:
    """How far above 1 / K an accuracy on so many images must be: 0.1, or two standard errors of chance if larger.

    The edits of one image are not independent, so it counts once.
    """
    chance = 1 / num_concepts
    return max(LEAST_MARGIN, 2 * math.sqrt(chance * (1 - chance) / max(num_images, 1)))
