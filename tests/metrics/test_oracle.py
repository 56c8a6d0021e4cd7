"""The oracle by hand, and on counterfactuals whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.classifiers import NetworkRecipe, train_classifier
from cfexplain.metrics.oracle import (
    Factor, Oracle, SeenFactors, dominant_colours, other_kept, purity, seen_factors, share_among,
)

PALETTE = ((255, 0, 0), (0, 255, 0), (255, 255, 0), (255, 255, 255))
SPEC = Oracle(num_resamples=100, width=6, num_steps=120)


def flat(*colours):
    return torch.tensor(colours, dtype=torch.uint8).view(-1, 3, 1, 1).expand(-1, -1, 4, 4)


def test_dominant_colour_ignores_brightness_and_dim_background():
    images = flat((90, 0, 0), (10, 200, 20), (120, 110, 5), (70, 80, 75), (255, 0, 0)).clone()
    images[4, :, 1:] = torch.tensor([0, 40, 0], dtype=torch.uint8).view(3, 1, 1)  # 12 dim green pixels, 4 bright red
    assert dominant_colours(images, PALETTE).tolist() == [0, 1, 2, 3, 0]


def test_an_empty_image_has_neither_shape_nor_colour():
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images[1, 0, 4:8] = 255
    recipe = NetworkRecipe(width=4, num_features=4, num_steps=2)
    classifier = train_classifier(images[:, :1], torch.tensor([0, 1]), 2, recipe, "cpu")
    seen = seen_factors(images, classifier, PALETTE, "cpu")
    assert (seen.shapes[0], seen.colours[0], seen.is_legible[0]) == (-1, -1, False)
    assert seen.shapes[1] >= 0
    assert seen.colours[1] == 0


def columns(*rows):
    return np.array(rows, dtype=bool)


def test_purity_by_hand():
    # Concept 0 makes the shape normal alone in 2 of 4, concept 1 the colour alone in 3 of 4.
    shape = columns([1, 0], [1, 0], [1, 1], [0, 0])
    colour = columns([0, 1], [0, 1], [1, 1], [0, 1])
    factors, is_pure = purity(shape, colour)
    assert factors == (Factor.SHAPE, Factor.COLOUR)
    assert is_pure.tolist() == [[True, True], [True, True], [False, False], [False, True]]
    swapped, is_swapped_pure = purity(shape[:, ::-1], colour[:, ::-1])
    assert swapped == (Factor.COLOUR, Factor.SHAPE)
    assert is_swapped_pure.mean() == is_pure.mean() == 5 / 8


def test_two_concepts_that_do_the_same_are_not_pure():
    shape, colour = columns([0, 0]).repeat(4, axis=0), columns([1, 1]).repeat(4, axis=0)
    factors, is_pure = purity(shape, colour)
    assert is_pure.mean() == 0.5 and set(factors) == {Factor.SHAPE, Factor.COLOUR}


@pytest.mark.parametrize("num_concepts", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_best_of_all(num_concepts, seed):
    from itertools import product

    rng = np.random.default_rng(seed)
    bias = rng.random(num_concepts)
    shape, colour = rng.random((30, num_concepts)) < bias, rng.random((30, num_concepts)) < 0.3
    best = max(
        np.mean([(shape & ~colour, colour & ~shape)[f][:, k].mean() for k, f in enumerate(factors)])
        for factors in product((0, 1), repeat=num_concepts)
        if num_concepts == 1 or set(factors) == {0, 1}
    )
    assert purity(shape, colour)[1].mean() == pytest.approx(best)


def test_other_kept_by_hand():
    seen = SeenFactors(np.array([[1, 7], [1, 3]]), np.array([[2, 0], [4, 0]]), np.ones((2, 2), dtype=bool))
    # Concept 0 reshapes: is the colour kept? Concept 1 recolours: is the digit?
    kept = other_kept(seen, np.array([7, 7]), np.array([2, 2]), (Factor.SHAPE, Factor.COLOUR))
    assert kept.tolist() == [[True, True], [False, False]]


def test_planted_run(planted):
    values = SPEC.compute(planted)
    assert values["oracle_accuracy"] > 0.9
    assert values["oracle_assignment"] == "0:colour 1:shape"
    assert values["oracle_normal_rate_concept_0"] == 1.0  # red by construction
    assert values["oracle_normal_rate"] > 0.95
    assert values["oracle_concept_purity"] > 0.9
    assert values["oracle_other_kept"] > 0.9
    assert values["oracle_other_kept_concept_1"] > 0.95  # the colour of the source, by construction
    assert values["oracle_legible_rate"] > 0.9
    means = {"normal_rate": "normal_rate", "concept_purity": "purity", "other_kept": "other_kept"}
    for key, part in means.items():
        parts = [values[f"oracle_{part}_concept_{k}"] for k in range(2)]
        assert values[f"oracle_{key}"] == pytest.approx(np.mean(parts))


def test_unchanged_anomalies_are_not_normal(planted):
    explanations = planted.explanations
    unchanged = explanations.sources.images[:, None, None].expand_as(explanations.images)
    values = SPEC.compute(replace(planted, explanations=replace(explanations, images=unchanged)))
    assert values["oracle_normal_rate"] < 0.1
    assert values["oracle_concept_purity"] < 0.1


def test_what_kept_the_other_factor_counts_among_truly_normal_ones_only():
    kept, normal = np.array([[True, False], [True, True]]), np.array([[False, True], [False, True]])
    assert share_among("kept", kept, normal) == {"kept": 0.5}
    assert share_among("kept", kept, np.zeros_like(normal)) == {}


def test_a_weak_oracle_says_so(planted):
    with pytest.warns(CfexplainWarning, match="do not lean on"):
        values = replace(SPEC, num_steps=2).compute(planted)
    assert values["oracle_accuracy"] < 0.9


def test_nothing_without_factors(planted):
    assert SPEC.compute(replace(planted, splits=replace(planted.splits, factors=None))) == {}
