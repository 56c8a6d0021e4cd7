"""How much labels vary: by hand, and of edits whose kind is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.baseline_methods import descended, GradientRecipe, Norm
from cfexplain.metrics.oracle import Oracle
from cfexplain.metrics.variation import label_variations, Variation, variations_among_alike

SPEC = Variation(num_resamples=50, width=6, num_steps=120)
HALF = 1.5 - 0.75 * np.log2(3)  # of a sure label and a coin: the entropy of (3/4, 1/4), less half a bit


def test_divergence_by_hand():
    before = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.3, 0.7]])
    after = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.3, 0.7]])
    assert label_variations(before, after) == pytest.approx([1.0, HALF, HALF, 0.0])


def test_pairs_alike_by_hand():
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    labels = np.array([7, 3, 7, 3, 7])  # in order: 1 and 3; 0 and 2, 2 and 4
    assert variations_among_alike(probabilities, labels) == pytest.approx([HALF, 1.0, 0.0])


def measured(planted, edited):
    """Of (N, K, C, H, W) counterfactuals of the first N anomalies."""
    explanations = planted.explanations.select(torch.arange(len(edited)))
    return SPEC.compute(replace(planted, explanations=replace(explanations, images=edited[:, None])))


def test_edits_of_each_kind(planted):
    explanations, normals = planted.explanations, planted.splits.train.images
    sources = explanations.sources.images
    recipe = GradientRecipe(norm=Norm.l2, radius=0.5, step_size=0.01, num_steps=20)
    attacked = descended(planted.model.detector, sources, explanations.threshold, recipe, "cpu")
    ideal = SPEC.compute(planted)
    nothing, gradient, drawn = (
        measured(planted, edited) for edited in (sources[:, None], attacked[:, None], normals[:100, None])
    )
    assert ideal["label_variation_accuracy"] > 0.9
    # concept 0 paints red and keeps the digit, concept 1 writes a 1 and keeps the colour
    assert ideal["label_variation_concept_0"] < 0.1 and ideal["label_variation_concept_1"] < 0.1
    assert ideal["label_variation_changed_concept_0"] > 0.9 and ideal["label_variation_changed_concept_1"] > 0.8
    assert ideal["label_variation"] < 2 * ideal["label_variation_alike"] + 0.02  # as real images that are alike
    assert nothing["label_variation"] == nothing["label_variation_changed"] == 0.0
    assert gradient["label_variation_changed"] < 0.3
    assert drawn["label_variation"] > 0.3  # another image: nothing is kept
    assert ideal["label_variation_low"] <= ideal["label_variation"] <= ideal["label_variation_high"]


def test_each_concept_is_measured_by_its_own_factors(planted):
    explanations, found = planted.explanations, SPEC.compute(planted)
    swapped = replace(explanations, images=explanations.images.flip(2))
    turned = SPEC.compute(replace(planted, explanations=swapped))
    for key in ("label_variation", "label_variation_changed"):
        assert turned[f"{key}_concept_1"] == found[f"{key}_concept_0"] != found[f"{key}_concept_1"]
    oracle = Oracle(num_resamples=5, width=6, num_steps=120).compute(replace(planted, explanations=swapped))
    assert oracle["oracle_assignment"] == "0:shape 1:colour"


def test_a_weak_judge_says_so(planted):
    with pytest.warns(CfexplainWarning, match="do not lean on it"):
        assert replace(SPEC, num_steps=1).compute(planted)["label_variation_accuracy"] < 0.9


def test_left_out_where_nothing_says_what_should_stay(planted):
    with pytest.warns(CfexplainWarning, match="knows no factors"):
        assert SPEC.compute(replace(planted, splits=replace(planted.splits, factors=None))) == {}
