"""samples.csv: what became of each anomaly under each concept; comparison.csv: what each of several runs says of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cfexplain.inspection.base import Inspection
from cfexplain.inspection.comparison import ComparedRun, RunVerdicts
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


def comparison_rows(runs: list[ComparedRun], verdicts: list[RunVerdicts]) -> list[dict[str, object]]:
    """One an image: comparison.csv."""
    rows = []
    for index, name in enumerate(verdicts[0].names):
        class_index, names = int(verdicts[0].classes[index]), runs[0].images.class_names
        row: dict[str, object] = {"id": name, "class": class_name(class_index, names)}
        row["agree"] = len({bool(part.is_anomalous[index]) for part in verdicts}) == 1
        row["same_verdict"] = len({part.verdict(index) for part in verdicts}) == 1
        for run, part in zip(runs, verdicts, strict=True):
            values = {
                "is_anomalous": bool(part.is_anomalous[index]),
                "score_before": score_text(part.logits_before[index]),
                "threshold": score_text(run.reference.threshold),
                "verdict": part.verdict(index).value,
                "concept": int(part.concepts[index]),
                "score_after": score_text(part.logits_after[index]),
                "logit_before": f"{part.logits_before[index]:.6g}",
                "logit_after": f"{part.logits_after[index]:.6g}",
                "logit_threshold": f"{run.reference.threshold:.6g}",
                "l1_distance": f"{part.l1_distances[index]:.6g}",
                "changed_fraction": f"{part.changed_fractions[index]:.6g}",
            }
            row |= {f"{run.name}_{key}": value for key, value in values.items()}
            if part.accepted is not None:
                others = zip(runs, part.accepted[index].tolist(), strict=True)
                row |= {f"{run.name}_convinces_{other.name}": said for other, said in others if other is not run}
        rows.append(row)
    return rows


def score_text(logit: float) -> str:
    return f"{float(as_scores(np.array(float(logit)))):.6g}"
