"""The images drawn for the concept atlas: which edits stand for a concept, and can the concepts be told apart?"""

from __future__ import annotations

import math

from cfexplain.inspection.base import Inspection, Verdict, VERDICTS
from cfexplain.lazy import F, Tensor, torch

SAMPLE_IMAGES, SAMPLE_BYTES = 500, 1 << 26  # so many of all images, or fewer where they are large
FEWEST_IMAGES = 20
NUM_EXAMPLES = 3
GRID = 8  # cells a side of a coarse edit
NUM_FOLDS = 5
LEAST_MARGIN = 0.1


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
            place = len(self.ids)
            if place == self.limit:
                place = int(torch.randint(self._num_seen, (), generator=self._generator))
                if place >= self.limit:
                    continue
            drawn = sources.images[row].clone(), edited[row].clone(), inspection.verdict_codes[row].clone()
            self.ids[place : place + 1] = [sources.ids[row]]
            self._drawn[place : place + 1] = [drawn]

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
    return tuple(rows[place] for place in chosen)


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
        found = torch.cdist(directions[folds == fold], centroids[None]).argmin(dim=2)  # (n, K)
        num_right += int((found == torch.arange(num_concepts)).sum())
    return num_right / (num_images * num_concepts)


def accuracy_margin(num_concepts: int, num_images: int) -> float:
    """How far above 1 / K an accuracy on so many images must be: 0.1, or two standard errors of chance if larger.

    The edits of one image are not independent, so it counts once.
    """
    chance = 1 / num_concepts
    return max(LEAST_MARGIN, 2 * math.sqrt(chance * (1 - chance) / max(num_images, 1)))
