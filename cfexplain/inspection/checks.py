"""The checks that make a verdict, without what only a card needs."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import Detector
from cfexplain.inspection.base import Reference
from cfexplain.inspection.manifold import manifold_distances
from cfexplain.inspection.robustness import survivals
from cfexplain.inspection.verdicts import duplicates, verdict_codes
from cfexplain.lazy import Tensor, torch
from cfexplain.types import Explanations


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The fields of Inspection with these names."""

    survives: Tensor
    manifold_distance: Tensor
    duplicate_of: Tensor
    verdict_codes: Tensor


def check(
    detector: Detector, explanations: Explanations, reference: Reference, device: torch.device | str
) -> Checks:
    """Of every counterfactual, at the reference's thresholds."""
    counterfactuals = explanations.counterfactuals
    shape, flat = counterfactuals.shape[:2], counterfactuals.flatten(0, 1)
    survives = survivals(detector, flat, reference, device).unflatten(0, shape)
    distances = manifold_distances(reference.features(flat), reference.neighbour_features).reshape(shape)
    distances = distances / reference.distance_limit
    duplicate_of = duplicates(explanations.sources.images, counterfactuals)
    already_normal = explanations.source_logits <= reference.threshold
    flipped = explanations.logits[:, 0] <= reference.threshold
    return Checks(
        survives=survives,
        manifold_distance=distances,
        duplicate_of=duplicate_of,
        verdict_codes=verdict_codes(already_normal, flipped, survives, distances, duplicate_of),
    )
