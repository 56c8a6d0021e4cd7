"""samples.csv holds the scores, distances and verdicts of the pictures."""

import numpy as np
import pytest
import torch

from cfexplain.metrics.distance import changed_fractions, l1_distances, level_changes
from cfexplain.reporting.samples import sample_rows
from tests.reporting.inspections import make_inspection


def column(rows, name: str) -> np.ndarray:
    return np.array([float(str(row[name])) for row in rows])


def test_samples_agree_with_the_metrics():
    inspection = make_inspection(num_images=6, num_concepts=2, num_classes=2)
    explanations = inspection.explanations
    rows = sample_rows(inspection, ("zero", "one"))
    assert [(row["id"], row["class"], row["concept"]) for row in rows[:4]] == [
        ("test/00000", "zero", 0), ("test/00000", "zero", 1), ("test/00001", "one", 0), ("test/00001", "one", 1),
    ]
    assert [row["verdict"] for row in rows] == [
        inspection.verdict(index, concept).value for index in range(6) for concept in range(2)
    ]
    changes = level_changes(explanations.sources.images[:, None], explanations.counterfactuals)
    # six digits are written
    assert column(rows, "l1_distance").mean() == pytest.approx(l1_distances(changes).mean(), rel=1e-5)
    fraction = changed_fractions(changes, 0.1).mean()
    assert column(rows, "changed_fraction").mean() == pytest.approx(fraction, rel=1e-5)
    assert column(rows, "repair_l1_distance").mean() == pytest.approx(
        l1_distances(level_changes(explanations.sources.images[:, None], inspection.repairs)).mean(), rel=1e-5
    )
    assert column(rows, "score_after") == pytest.approx(explanations.logits[:, 0].sigmoid().flatten().numpy(), rel=1e-4)
    assert column(rows, "survives_jpeg").tolist() == inspection.survives[..., 1].flatten().tolist()


def test_an_image_of_no_class_and_a_duplicate():
    inspection = make_inspection(num_images=2, num_classes=0)
    inspection.duplicate_of[1, 1] = 0
    rows = sample_rows(inspection, ())
    assert {row["class"] for row in rows} == {""}
    assert [row["duplicate_of"] for row in rows] == ["", "", "", 0]


def test_the_threshold_is_the_explanations_own():
    inspection = make_inspection(num_images=1)
    (row, _) = sample_rows(inspection, ("a", "b", "c"))
    assert float(str(row["threshold"])) == inspection.explanations.threshold
    assert torch.equal(inspection.repair_logits <= -2.0, inspection.explanations.logits[:, 0] <= -2.0)
