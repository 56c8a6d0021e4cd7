"""All checks of a batch of explanations, and the one verdict of each counterfactual that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cfexplain.data.batches import to_uint8
from cfexplain.detectors.base import batched_on_cpu, Detector, logits_of
from cfexplain.explanation.explain import FittedModel
from cfexplain.inspection.base import Inspection, Verdict, VERDICTS
from cfexplain.inspection.reference import manifold_distances, nearest_rows, Reference
from cfexplain.inspection.repair import repaired, way_logits
from cfexplain.inspection.saliency import heatmaps
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.survival import altered_logits
from cfexplain.types import Explanations

# Two edits are the same change if they point the same way, within 26 degrees, and neither is much larger: along one
# direction, the smaller has at least 0.6 of the larger's size. So a fainter repaint is another change.
SAME_COSINE = 0.9
SAME_DIFFERENCE = 0.5  # L1 distance of two edits over their mean L1 size


def inspect(
    model: FittedModel, explanations: Explanations, reference: Reference, device: torch.device | str
) -> Inspection:
    """Everything that Inspection holds. The explanations' own threshold gives way to the reference's."""
    explanations = replace(explanations, threshold=reference.threshold)
    detector, sources, logits = model.detector, explanations.sources.images, explanations.logits[:, 0]
    checks = check(detector, explanations, reference, device)
    rows = nearest_rows(sources, reference.features(sources), reference.neighbours, reference.neighbour_features)
    nearest, psi = reference.neighbours.images[rows], getattr(model.generator, "psi", None)
    repairs, repair_logits = repaired(detector, explanations, device)
    return Inspection(
        explanations=explanations,
        position_before=positions(explanations.source_logits, reference.normal_logits),
        position_after=positions(logits, reference.normal_logits),
        alterations=reference.alteration_names,
        way_logits=way_logits(
            detector, sources, explanations.images, (explanations.source_logits, logits), device
        ),
        repairs=repairs,
        repair_logits=repair_logits,
        heatmaps=heatmaps(detector, sources, nearest, device),
        nearest=nearest,
        nearest_ids=tuple(reference.neighbours.ids[row] for row in rows.tolist()),
        plausible=nearest if psi is None else batched_on_cpu(lambda images: to_uint8(psi(images)), sources, device),
        **vars(checks),
    )


def positions(logits: Tensor, normal_logits: Tensor) -> Tensor:
    """(...) float32: share of the (M,) sorted normal logits that lie below each logit."""
    return torch.searchsorted(normal_logits, logits.contiguous()) / len(normal_logits)


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


def survivals(detector: Detector, images: Tensor, reference: Reference, device: torch.device | str) -> Tensor:
    """(N, C, H, W) uint8 -> (N, M) bool, as Reference.alteration_names: at or below the threshold of each."""
    thresholds = torch.tensor(reference.alteration_thresholds)
    survives = altered_logits(detector, images, reference.alterations, device) <= thresholds
    if reference.second_detector is None:
        return survives
    second = logits_of(reference.second_detector, images, device) <= reference.second_threshold
    return torch.cat([survives, second[:, None]], dim=1)


def duplicates(sources: Tensor, counterfactuals: Tensor) -> Tensor:
    """(N, K) int64: the first earlier concept that makes the same change, or -1.

    sources: (N, C, H, W) uint8; counterfactuals: (N, K, C, H, W) uint8. Concepts that change nothing are the same.
    """
    num_images, num_concepts = counterfactuals.shape[:2]
    found = torch.full((num_images, num_concepts), -1)
    for index in range(num_images):  # one by one: edits of large images are large
        is_same = same_changes((counterfactuals[index].float() - sources[index].float()).flatten(1))
        for concept in range(1, num_concepts):
            earlier = is_same[concept, :concept].nonzero().flatten()
            if len(earlier):
                found[index, concept] = earlier[0]
    return found


def same_changes(edits: Tensor) -> Tensor:
    """(K, D) float -> (K, K) bool."""
    lengths, sizes = edits.norm(dim=1), edits.abs().sum(dim=1)
    is_aligned = edits @ edits.T >= SAME_COSINE * lengths[:, None] * lengths
    is_close = torch.cdist(edits, edits, p=1) <= SAME_DIFFERENCE * (sizes[:, None] + sizes) / 2
    return is_aligned & is_close


def verdict_codes(
    already_normal: Tensor, flipped: Tensor, survives: Tensor, manifold_distance: Tensor, duplicate_of: Tensor
) -> Tensor:
    """(N, K) int64, index into VERDICTS: the first that holds, in their order.

    already_normal: (N,) bool; flipped: (N, K) bool; survives: (N, K, M) bool; the others (N, K) as in Inspection.
    """
    holds = {
        Verdict.already_normal: already_normal[:, None].expand_as(flipped),
        Verdict.not_flipped: ~flipped,
        Verdict.adversarial: ~survives.all(dim=2),
        Verdict.off_manifold: manifold_distance > 1,
        Verdict.duplicate: duplicate_of >= 0,
        Verdict.ok: torch.ones_like(flipped),
    }
    return torch.stack([holds[verdict] for verdict in VERDICTS]).int().argmax(dim=0)  # the first of equals
