"""samples.csv: what became of each anomaly under each concept."""

from __future__ import annotations

from collections.abc import Sequence

from cfexplain.inspection.base import Inspection
from cfexplain.reporting.grids import as_scores
from cfexplain.types import class_name


def sample_rows(inspection: Inspection, class_names: Sequence[str]) -> list[dict[str, object]]:
    """One row per anomaly and concept. Distances are of [-1, 1] images; `_before` is of the image itself.

    repair_l1_distance: of the minimal repair; excess_change: the share of the counterfactual's change it saves.
    """
    explanations, sources = inspection.explanations, inspection.explanations.sources
    before, after = explanations.source_logits.numpy(), explanations.logits[:, 0].numpy()
    score_before, score_after = as_scores(before), as_scores(after)
    sizes = inspection.change_sizes
    rows: list[dict[str, object]] = []
    for index, image_id in enumerate(sources.ids):
        for concept in range(explanations.num_concepts):
            rows.append({
                "id": image_id,
                "class": class_name(int(sources.classes[index]), class_names),
                "concept": concept,
                "score_before": f"{score_before[index]:.6g}",
                "score_after": f"{score_after[index, concept]:.6g}",
                "logit_before": f"{before[index]:.6g}",
                "logit_after": f"{after[index, concept]:.6g}",
                "threshold": f"{explanations.threshold:.6g}",
                "verdict": inspection.verdict(index, concept).value,
                "l1_distance": f"{sizes.l1_distance[index, concept]:.6g}",
                "changed_fraction": f"{sizes.changed_fraction[index, concept]:.6g}",
                "position_before": f"{float(inspection.position_before[index]):.6g}",
                "position_after": f"{float(inspection.position_after[index, concept]):.6g}",
                **_survival(inspection, index, concept),
                "manifold_distance": f"{float(inspection.manifold_distance[index, concept]):.6g}",
                "duplicate_of": _number(int(inspection.duplicate_of[index, concept])),
                "repair_l1_distance": f"{sizes.repair_l1_distance[index, concept]:.6g}",
                "excess_change": f"{sizes.excess_change[index, concept]:.6g}",
                "repair_logit": f"{float(inspection.repair_logits[index, concept]):.6g}",
                "nearest_normal": inspection.nearest_ids[index],
            })
    return rows


def _survival(inspection: Inspection, index: int, concept: int) -> dict[str, object]:
    kept = inspection.survives[index, concept].tolist()
    return {f"survives_{name}": int(value) for name, value in zip(inspection.alterations, kept, strict=True)}


def _number(concept: int) -> object:
    return concept if concept >= 0 else ""
