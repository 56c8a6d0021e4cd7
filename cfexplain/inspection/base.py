"""What was measured on explanations, as it is saved, drawn and put into words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from cfexplain.lazy import Tensor
from cfexplain.metrics.distance import changed_fractions, l1_distances, level_changes, VISIBLE_CHANGE
from cfexplain.types import Explanations

NUM_WAY_STEPS = 9  # points along the way from an image to its counterfactual


class Verdict(StrEnum):
    """Of one counterfactual; where several hold, the first in this order is the verdict.

    already_normal: the image itself is at or below the threshold: there was nothing to explain.
    not_flipped:    the counterfactual is still above the threshold.
    adversarial:    it is below it only as it stands: after PNG, JPEG, a shift or a blur, or for a second detector, not,
                    each at its own threshold (Reference), so that real normal images mostly pass.
    off_manifold:   it is farther from the normal images than these are from each other.
    duplicate:      it is the same change as that of an earlier concept.
    ok:             none of these.
    """

    already_normal = "already_normal"
    not_flipped = "not_flipped"
    adversarial = "adversarial"
    off_manifold = "off_manifold"
    duplicate = "duplicate"
    ok = "ok"


VERDICTS = tuple(Verdict)


@dataclass(frozen=True, kw_only=True)
class ChangeSizes:
    """How much counterfactuals change, and how much of that their minimal repairs save; each (N, K) float64.

    l1_distance, repair_l1_distance: mean change, images in [-1, 1].
    changed_fraction: share of pixels that change visibly.
    excess_change:    share of the L1 change that the repair does without, in [0, 1]; 0 where nothing changed.
    """

    l1_distance: np.ndarray
    changed_fraction: np.ndarray
    repair_l1_distance: np.ndarray
    excess_change: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was measured on the explanations of N images under K concepts.

    explanations:     of these images, with the reference's threshold.
    verdict_codes:    (N, K) int64, index into VERDICTS.
    position_before:  (N,) float32, share of the held-out normals with a lower score than the image.
    position_after:   (N, K) the same of the counterfactuals.
    alterations:      names of the M alterations that a counterfactual should survive, second_detector last if any.
    survives:         (N, K, M) bool, at or below the threshold after each of them.
    manifold_distance: (N, K) float32, distance to the nearest normals over the reference's limit: above 1 is farther
                      than normal images are from each other.
    duplicate_of:     (N, K) int64, the earlier concept that makes the same change, or -1.
    way_logits:       (N, K, NUM_WAY_STEPS) float32 along the way from the image (first) over the counterfactuals for
                      falling alpha to the one for alpha = 0 (last), blended in equal steps.
    repairs:          (N, K, C, H, W) uint8, minimal repair: the least change found that passes the threshold.
    repair_logits:    (N, K) float32.
    heatmaps:         (N, H, W) float32 in [-1, 1], integrated gradients of the image's logit; positive: raises it.
    nearest:          (N, C, H, W) uint8, the nearest normal training image.
    nearest_ids:      N names.
    plausible:        (N, C, H, W) uint8, a plausible normal image near it, whatever the detector says: psi(x) of
                      generator=flow_edit, else `nearest`.
    """

    explanations: Explanations
    verdict_codes: Tensor
    position_before: Tensor
    position_after: Tensor
    alterations: tuple[str, ...]
    survives: Tensor
    manifold_distance: Tensor
    duplicate_of: Tensor
    way_logits: Tensor
    repairs: Tensor
    repair_logits: Tensor
    heatmaps: Tensor
    nearest: Tensor
    nearest_ids: tuple[str, ...]
    plausible: Tensor

    @property
    def is_drawn(self) -> bool:
        """Whether `plausible` is a picture of its own."""
        return self.plausible is not self.nearest and not self.plausible.equal(self.nearest)

    @cached_property
    def plausible_distances(self) -> np.ndarray:
        """(N,) float64, mean change from the image to `plausible`, images in [-1, 1]."""
        pairs = zip(self.explanations.sources.images, self.plausible, strict=True)
        return np.array([l1_distances(level_changes(source, normal[None]))[0] for source, normal in pairs])

    def verdict(self, index: int, concept: int) -> Verdict:
        return VERDICTS[int(self.verdict_codes[index, concept])]

    def failures(self, index: int, concept: int) -> tuple[str, ...]:
        """Names of the alterations that the counterfactual does not survive."""
        survives = self.survives[index, concept].tolist()
        return tuple(name for name, survived in zip(self.alterations, survives, strict=True) if not survived)

    @cached_property
    def change_sizes(self) -> ChangeSizes:
        """Image by image: edits of large images are large."""
        shape = self.verdict_codes.shape
        lengths, fractions, repair_lengths, excess = (np.zeros(shape) for _ in range(4))
        for index, source in enumerate(self.explanations.sources.images):
            changes = level_changes(source, self.explanations.counterfactuals[index])
            repairs = level_changes(source, self.repairs[index])
            lengths[index], repair_lengths[index] = l1_distances(changes), l1_distances(repairs)
            fractions[index] = changed_fractions(changes, VISIBLE_CHANGE)
            whole, least = (edits.flatten(1).sum(dim=1).double().numpy() for edits in (changes, repairs))
            excess[index] = np.where(whole > 0, 1 - least / np.where(whole > 0, whole, 1), 0)
        return ChangeSizes(
            l1_distance=lengths, changed_fraction=fractions, repair_l1_distance=repair_lengths, excess_change=excess
        )
