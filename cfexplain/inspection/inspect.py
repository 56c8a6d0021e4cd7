"""All checks of a batch of explanations."""

from __future__ import annotations

from dataclasses import replace

from cfexplain.explanation.explain import FittedModel
from cfexplain.inspection.base import Inspection
from cfexplain.inspection.reference import nearest_rows, Reference
from cfexplain.inspection.repair import repaired, way_logits
from cfexplain.inspection.saliency import heatmaps
from cfexplain.inspection.verdicts import check
from cfexplain.lazy import Tensor, torch
from cfexplain.types import Explanations


def inspect(
    model: FittedModel, explanations: Explanations, reference: Reference, device: torch.device | str
) -> Inspection:
    """Everything that Inspection holds. The explanations' own threshold gives way to the reference's."""
    explanations = replace(explanations, threshold=reference.threshold)
    detector, sources, logits = model.detector, explanations.sources.images, explanations.logits[:, 0]
    checks = check(detector, explanations, reference, device)
    rows = nearest_rows(sources, reference.features(sources), reference.neighbours, reference.neighbour_features)
    nearest = reference.neighbours.images[rows]
    repairs, repair_logits = repaired(detector, explanations, device)
    return Inspection(
        explanations=explanations,
        verdict_codes=checks.verdict_codes,
        position_before=positions(explanations.source_logits, reference.normal_logits),
        position_after=positions(logits, reference.normal_logits),
        alterations=reference.alteration_names,
        survives=checks.survives,
        manifold_distance=checks.manifold_distance,
        duplicate_of=checks.duplicate_of,
        way_logits=way_logits(
            detector, sources, explanations.images, (explanations.source_logits, logits), device
        ),
        repairs=repairs,
        repair_logits=repair_logits,
        heatmaps=heatmaps(detector, sources, nearest, device),
        nearest=nearest,
        nearest_ids=tuple(reference.neighbours.ids[row] for row in rows.tolist()),
    )


def positions(logits: Tensor, normal_logits: Tensor) -> Tensor:
    """(...) float32: share of the (M,) sorted normal logits that lie below each logit."""
    return torch.searchsorted(normal_logits, logits.contiguous()) / len(normal_logits)
