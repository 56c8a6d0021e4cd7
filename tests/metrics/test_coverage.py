"""Density, coverage and copies: by hand in the space of one pixel, and of edits whose kind is known."""

from dataclasses import replace

import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.base import MetricInputs
from cfexplain.metrics.baseline_methods import descended, GradientRecipe, nearest_indices, Norm
from cfexplain.metrics.classifiers import FeatureSpace
from cfexplain.metrics.coverage import balls_entered, Coverage, nearest_distances
from cfexplain.types import Explanations
from tests.inspection.formulas import image_set, PixelFeatures, splits_of

SPEC = Coverage(num_resamples=50, width=4, num_steps=60, num_neighbours=5, num_images=100)


def grey(*levels):
    """(N, 1, 1, 1) uint8."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None]


@pytest.fixture
def by_hand(monkeypatch):
    """Balls around 0, 10, 30 and 70 that reach their next: they end at 10, 20, 50 and 110."""
    monkeypatch.setattr(
        "cfexplain.metrics.coverage.feature_space",
        lambda *_: FeatureSpace(name="pixels", network=PixelFeatures(), device="cpu"),
    )
    edited = torch.stack([grey(5, 30, 200, 200), grey(104, 104, 104, 104)], dim=1)
    explanations = Explanations(
        sources=image_set(grey(255, 255, 255, 255)), images=edited[:, None], logits=torch.zeros(4, 1, 2),
        source_logits=torch.zeros(4), threshold=0.0,
    )
    splits = splits_of(grey(100, 104, 8, 200), grey(98, 110))
    return MetricInputs(
        splits=replace(splits, test=image_set(grey(0, 10, 30, 70))), model=None, explanations=explanations,
        explain=None, fit_detector=None, device=torch.device("cpu"), seed=0, cache_dir=None, test_normal_logits=None,
    )


def test_balls_by_hand():
    normals = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    features = torch.tensor([[[0.5], [3.0]], [[20.0], [-0.5]]])  # 3 lies on the surface of the ball around 7
    assert balls_entered(normals, features, 1).int().tolist() == [
        [[1, 1, 0, 0], [0, 0, 1, 0]], [[0, 0, 0, 0], [1, 0, 0, 0]],
    ]  # fmt: skip
    assert balls_entered(normals, features, 3).int().sum(dim=2).tolist() == [[4, 4], [0, 3]]  # radii of 7, 6, 4 and 7


def test_nearest_distances_by_hand(monkeypatch):
    monkeypatch.setattr("cfexplain.metrics.coverage.PART", 3)
    features = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [9.0, 4.0]]])
    neighbours = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    assert nearest_distances(features, neighbours).tolist() == [[0.0, 5.0], [2.0, 5.0]]


def test_values_by_hand(by_hand):
    values = replace(SPEC, num_neighbours=1).compute(by_hand)
    expected = {
        "density_concept_0": 3 / 4,  # 5 lies in two balls, 30 in its own, and on the surface of that around 70
        "density_concept_1": 1.0, "density": 7 / 8, "density_before": 0.0, "density_normals": 1.0,
        "coverage_concept_0": 3 / 4, "coverage_concept_1": 1 / 4, "coverage_before": 0.0, "coverage_normals": 3 / 4,
        "coverage": 3 / 4,  # of 5, 104, 200, 104
        "training_distance_concept_0": (3 + 22) / 4 / 4,  # held-out images are 2 and 6 from their nearest, 4 on average
        "training_distance_concept_1": 0.0, "training_distance": 25 / 32,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == pytest.approx(expected)
    for key in ("density", "coverage", "training_distance"):
        assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"]


def test_what_cannot_be_measured_is_left_out(by_hand):
    with pytest.warns(CfexplainWarning, match="4 neighbours take more"):
        assert not {"density", "coverage"} & set(replace(SPEC, num_neighbours=4).compute(by_hand))
    splits = replace(by_hand.splits, held_out=by_hand.splits.train)
    with pytest.warns(CfexplainWarning, match="is a training image too"):
        values = replace(SPEC, num_neighbours=1).compute(replace(by_hand, splits=splits))
    assert values["density"] == 7 / 8 and "training_distance" not in values


def test_edits_of_each_kind(planted):
    explanations, normals = planted.explanations.select(torch.arange(100)), planted.splits.train.images
    sources = explanations.sources.images
    recipe = GradientRecipe(norm=Norm.l2, radius=0.5, step_size=0.01, num_steps=20)
    images = {
        "ideal": explanations.counterfactuals,
        "nothing": sources[:, None],
        "gradient": descended(planted.model.detector, sources, explanations.threshold, recipe, "cpu")[:, None],
        "nearest": normals[nearest_indices(sources, normals, "cpu")][:, None],
    }
    found = {
        name: SPEC.compute(replace(planted, explanations=replace(explanations, images=edited[:, None])))
        for name, edited in images.items()
    }
    nothing, ideal = found["nothing"], found["ideal"]
    for key in ("density", "coverage"):
        assert nothing[key] == pytest.approx(nothing[f"{key}_before"])
        assert ideal[key] > 1.5 * found["gradient"][key] and ideal[key] > 1.5 * nothing[key]
    assert found["nearest"]["training_distance"] == 0.0 < 0.5 < ideal["training_distance"]
