"""Rows of the CSV files: samples.csv, what became of each anomaly under each concept; comparison.csv, what each of
several runs says of it; split.csv, which image played which part in a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cfexplain.data.recorded_split import contents
from cfexplain.inspection.base import Inspection
from cfexplain.inspection.comparison import ComparedRun, RunVerdicts
from cfexplain.reporting.grids import as_scores, score_of
from cfexplain.types import class_name, Splits


def sample_rows(inspection: Inspection, class_names: Sequence[str]) -> list[dict[str, object]]:
    """One row per anomaly and concept. Distances are of [-1, 1] images; `_before` is of the image itself.

    repair_l1_distance: of the minimal repair; excess_change: the share of the counterfactual's change it saves.
    plausible_l1_distance: of a plausible normal image, drawn by the generator or else the nearest one of training.
    """
    explanations, sources, sizes = inspection.explanations, inspection.explanations.sources, inspection.change_sizes
    before, after = explanations.source_logits.numpy(), explanations.logits[:, 0].numpy()
    score_before, score_after = as_scores(before), as_scores(after)
    rows: list[dict[str, object]] = []
    for index, image_id in enumerate(sources.ids):
        for concept in range(explanations.num_concepts):
            here, duplicate_of = (index, concept), int(inspection.duplicate_of[index, concept])
            survives = zip(inspection.alterations, inspection.survives[here].tolist(), strict=True)
            rows.append(_with_six_digits({
                "id": image_id,
                "class": class_name(int(sources.classes[index]), class_names),
                "concept": concept,
                "score_before": score_before[index],
                "score_after": score_after[here],
                "logit_before": before[index],
                "logit_after": after[here],
                "threshold": explanations.threshold,
                "verdict": inspection.verdict(*here).value,
                "l1_distance": sizes.l1_distance[here],
                "changed_fraction": sizes.changed_fraction[here],
                "position_before": float(inspection.position_before[index]),
                "position_after": float(inspection.position_after[here]),
                **{f"survives_{name}": int(survived) for name, survived in survives},
                "manifold_distance": float(inspection.manifold_distance[here]),
                "duplicate_of": duplicate_of if duplicate_of >= 0 else "",
                "repair_l1_distance": sizes.repair_l1_distance[here],
                "excess_change": sizes.excess_change[here],
                "repair_logit": float(inspection.repair_logits[here]),
                "nearest_normal": inspection.nearest_ids[index],
                "plausible_l1_distance": inspection.plausible_distances[index],
            }))
    return rows


def comparison_rows(runs: list[ComparedRun], verdicts: list[RunVerdicts]) -> list[dict[str, object]]:
    rows = []
    for index, name in enumerate(verdicts[0].names):
        row: dict[str, object] = {
            "id": name,
            "class": class_name(int(verdicts[0].classes[index]), runs[0].images.class_names),
            "agree": len({bool(part.is_anomalous[index]) for part in verdicts}) == 1,
            "same_verdict": len({part.verdict(index) for part in verdicts}) == 1,
        }
        for run, part in zip(runs, verdicts, strict=True):
            values = _with_six_digits({
                "is_anomalous": bool(part.is_anomalous[index]),
                "score_before": score_of(part.logits_before[index]),
                "threshold": score_of(run.reference.threshold),
                "verdict": part.verdict(index).value,
                "concept": int(part.concepts[index]),
                "score_after": score_of(part.logits_after[index]),
                "logit_before": float(part.logits_before[index]),
                "logit_after": float(part.logits_after[index]),
                "logit_threshold": run.reference.threshold,
                "l1_distance": float(part.l1_distances[index]),
                "changed_fraction": float(part.changed_fractions[index]),
            })
            row |= {f"{run.name}_{key}": value for key, value in values.items()}
            if part.accepted is not None:
                others = zip(runs, part.accepted[index].tolist(), strict=True)
                row |= {f"{run.name}_convinces_{other.name}": accepts for other, accepts in others if other is not run}
        rows.append(row)
    return rows


def split_rows(splits: Splits) -> list[dict[str, object]]:
    """One row per image; `class` is empty where an exposure image belongs to none, all but the id for unreadable files.

    sha256: of the file or, of images that are none, of the pixels.
    """
    roles = {"train": splits.train, "held_out": splits.held_out, "exposure": splits.exposure, "test": splits.test}
    rows: list[dict[str, object]] = [
        {"id": image_id, "role": role, "class": class_name(index, splits.class_names), "label": label, "sha256": sha256}
        for role, part in roles.items() if part is not None
        for image_id, index, label, sha256 in zip(
            part.ids, part.classes.tolist(), part.labels.tolist(), contents(part, splits), strict=True
        )
    ]
    used = {row["id"] for row in rows}
    return rows + [
        {"id": image_id, "role": "unreadable", "class": "", "label": "", "sha256": sha256}
        for image_id, sha256 in splits.digests.items() if image_id not in used
    ]


def _with_six_digits(row: Mapping[str, object]) -> dict[str, object]:
    return {name: f"{value:.6g}" if isinstance(value, float | np.floating) else value for name, value in row.items()}
