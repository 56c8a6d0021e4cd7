"""samples.csv: what became of each anomaly under each concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cfexplain.reporting.grids import as_scores

if TYPE_CHECKING:
    from cfexplain.types import Explanations

CHANGED = 0.1  # of the range -1..1: a pixel that differs by more counts as changed


def sample_rows(explanations: Explanations, class_names: Sequence[str]) -> list[dict[str, object]]:
    """One row per anomaly and concept; verdict ok, not_flipped, or already_normal (there was nothing to explain)."""
    sources = explanations.sources
    before, after = explanations.source_logits.numpy(), explanations.logits[:, 0].numpy()
    score_before, score_after = as_scores(before), as_scores(after)
    rows: list[dict[str, object]] = []
    for index, image_id in enumerate(sources.ids):
        class_index = int(sources.classes[index])
        source = sources.images[index].numpy().astype(np.int16)
        for concept in range(explanations.num_concepts):
            change = np.abs(explanations.counterfactuals[index, concept].numpy() - source) / 127.5  # (C, H, W)
            rows.append({
                "id": image_id,
                "class": class_names[class_index] if class_index >= 0 else "",
                "concept": concept,
                "score_before": f"{score_before[index]:.6g}",
                "score_after": f"{score_after[index, concept]:.6g}",
                "logit_before": f"{before[index]:.6g}",
                "logit_after": f"{after[index, concept]:.6g}",
                "threshold": f"{explanations.threshold:.6g}",
                "verdict": verdict(before[index], after[index, concept], explanations.threshold),
                "l1_distance": f"{change.mean():.6g}",
                "changed_fraction": f"{(change.max(axis=0) > CHANGED).mean():.6g}",
            })
    return rows


def verdict(logit_before: float, logit_after: float, threshold: float) -> str:
    if logit_before <= threshold:
        return "already_normal"
    return "ok" if logit_after <= threshold else "not_flipped"
