"""Nearer to the anomaly than real normal images: by hand, and of edits whose kind is known."""

from dataclasses import replace

import pytest
import torch

from cfexplain.metrics.baseline_methods import descended, GradientRecipe, nearest_indices, Norm
from cfexplain.metrics.minimality import farther_counts, Minimality

SPEC = Minimality(num_resamples=50, num_images=40, num_normals=1000)


def pairs(*pixels):
    """(N, 1, 1, 2) uint8 of two pixels each."""
    return torch.tensor(pixels, dtype=torch.uint8)[:, None, None]


@pytest.mark.parametrize("chunk_values", [1, 4, 1 << 24])
def test_counts_by_hand(monkeypatch, chunk_values):
    monkeypatch.setattr("cfexplain.metrics.minimality.CHUNK_VALUES", chunk_values)
    normals = pairs((100, 110), (90, 90), (130, 100))  # 10, 20 and 30 levels from the first source
    sources = pairs((100, 100), (130, 101))  # 39, 51 and 1 from the second
    edited = torch.stack([pairs((105, 105), (130, 51)), pairs((100, 109), (130, 101))], dim=1)
    # 10 levels: the first normal image is as far, not farther; 9; 50; none
    assert farther_counts(sources, edited, normals, "cpu").tolist() == [[2, 3], [1, 3]]


def measured(planted, edited):
    """Of (N, K, C, H, W) counterfactuals of the first N anomalies."""
    explanations = planted.explanations.select(torch.arange(len(edited)))
    return SPEC.compute(replace(planted, explanations=replace(explanations, images=edited[:, None])))


def test_only_real_images_are_told_from_edits(planted):
    explanations, normals = planted.explanations, planted.splits.train.images
    sources = explanations.sources.images[:40]
    recipe = GradientRecipe(norm=Norm.l2, radius=0.5, step_size=0.01, num_steps=20)
    others = {
        "ideal": explanations.counterfactuals[:40],
        "nothing": sources[:, None],
        "gradient": descended(planted.model.detector, sources, explanations.threshold, recipe, "cpu")[:, None],
        "nearest": normals[nearest_indices(sources, normals, "cpu")][:, None],
        "any": normals[:40, None],
    }
    found = {name: measured(planted, edited) for name, edited in others.items()}
    print(found)
    assert found["nothing"]["minimality"] == found["nothing"]["nearer_than_normals"] == 1.0
    assert found["gradient"]["nearer_than_normals"] > 0.9
    assert found["ideal"]["nearer_than_normals_concept_0"] > 0.2  # a red digit may be farther than another
    assert found["nearest"]["minimality"] > 0.95 and 0.3 < found["any"]["minimality"] < 0.7
    assert found["nearest"]["nearer_than_normals"] == 0.0


def test_normal_images_are_taken_in_equal_steps(planted):
    splits = planted.splits
    some = replace(planted, splits=replace(splits, train=splits.train[::8]))
    assert replace(SPEC, num_normals=len(splits.train) // 8).compute(planted) == SPEC.compute(some)
