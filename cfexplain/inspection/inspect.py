"""All checks of a batch of explanations."""

from __future__ import annotations

from dataclasses import replace

from cfexplain.detectors.base import Detector, logits_of
from cfexplain.explanation.explain import FittedModel
from cfexplain.inspection.base import Inspection, Reference
from cfexplain.inspection.checks import check
from cfexplain.inspection.manifold import nearest_rows
from cfexplain.inspection.repair import minimal_repairs
from cfexplain.inspection.robustness import alteration_names
from cfexplain.inspection.saliency import heatmaps, images_within, PIXELS
from cfexplain.inspection.way import way_logits
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
    repairs, repair_logits = _repairs(detector, explanations, device)
    return Inspection(
        explanations=explanations,
        verdict_codes=checks.verdict_codes,
        position_before=positions(explanations.source_logits, reference.normal_logits),
        position_after=positions(logits, reference.normal_logits),
        alterations=alteration_names(reference),
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


def _repairs(
    detector: Detector, explanations: Explanations, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """(N, K, C, H, W) uint8 and their (N, K) logits.

    Where there is nothing to repair the image itself; where the counterfactual fails, or its repair does after all (a
    network's last digits depend on the batch), the counterfactual.
    """
    sources, counterfactuals = explanations.sources.images, explanations.counterfactuals
    logits, threshold = explanations.logits[:, 0], explanations.threshold
    is_normal = (explanations.source_logits <= threshold)[:, None].expand_as(logits)
    repairs = torch.where(is_normal[..., None, None, None], sources[:, None], counterfactuals)
    repair_logits = torch.where(is_normal, explanations.source_logits[:, None], logits)
    images, concepts = (~is_normal & (logits <= threshold)).nonzero(as_tuple=True)
    if len(images) == 0:
        return repairs, repair_logits
    parts = zip(*(numbers.split(images_within(PIXELS, sources)) for numbers in (images, concepts)), strict=True)
    found = torch.cat([
        minimal_repairs(detector, sources[rows], counterfactuals[rows, numbers], threshold, device)
        for rows, numbers in parts
    ])  # fmt: skip
    found_logits = logits_of(detector, found, device)
    passes = found_logits <= threshold
    images, concepts = images[passes], concepts[passes]
    repairs[images, concepts], repair_logits[images, concepts] = found[passes], found_logits[passes]
    return repairs, repair_logits
