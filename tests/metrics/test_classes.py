"""A classifier of the classes as judge: its odds by hand, and counterfactuals whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.classes import Classes, log_odds
from cfexplain.types import NORMAL

SPEC = Classes(num_resamples=50, width=8, num_steps=300)


def without_factors(inputs):
    """As a dataset of classes: the splits no longer say what makes a class normal."""
    return replace(inputs, splits=replace(inputs.splits, factors=None))


def test_log_odds_by_hand():
    log_probs = np.log([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    is_normal = np.array([True, True, False])
    assert log_odds(log_probs, is_normal, np.array([5, 5, 10])) == pytest.approx([0.0, np.log(0.2 / 0.8)])
    rare = log_odds(log_probs, is_normal, np.array([1, 1, 18]))  # nine in ten of what it learnt from were anomalous
    assert rare == pytest.approx([np.log(9), np.log(9 * 0.25)])


def test_planted_run(planted):
    values = SPEC.compute(without_factors(planted))
    assert values["class_accuracy"] > 0.9
    assert values["class_normal_rate"] > 0.9
    assert values["class_normal_rate_low"] <= values["class_normal_rate"] <= values["class_normal_rate_high"]
    parts = [values[f"class_normal_rate_concept_{concept}"] for concept in range(2)]
    assert values["class_normal_rate"] == pytest.approx(np.mean(parts))
    right = values["class_normal_rate_normals"] + 1 - values["class_normal_rate_anomalies"]
    assert values["class_accuracy"] == pytest.approx(right / 2)


def test_unchanged_anomalies_are_what_they_were(planted):
    inputs = without_factors(planted)
    explanations = inputs.explanations
    unchanged = explanations.sources.images[:, None, None].expand_as(explanations.images)
    values = SPEC.compute(replace(inputs, explanations=replace(explanations, images=unchanged)))
    assert values["class_normal_rate"] == values["class_normal_rate_anomalies"] < 0.2


def test_a_weak_judge_says_so(planted):
    with pytest.warns(CfexplainWarning, match="do not lean on it"):
        values = replace(SPEC, num_steps=1).compute(without_factors(planted))
    assert values["class_accuracy"] < 0.8


def test_nothing_where_factors_are_known_or_only_one_class_is(planted):
    assert SPEC.compute(planted) == {}
    splits = without_factors(planted).splits
    normals = torch.isin(splits.reference.classes, splits.train.classes)
    for part in (normals, ~normals):
        reference = splits.reference.select(part)
        assert SPEC.compute(replace(planted, splits=replace(splits, reference=reference))) == {}


def test_without_test_anomalies_the_accuracy_is_left_out(planted):
    splits = without_factors(planted).splits
    test = splits.test.select(splits.test.labels == NORMAL)
    with pytest.warns(CfexplainWarning, match="no test anomalies"):
        values = SPEC.compute(replace(planted, splits=replace(splits, test=test)))
    assert "class_accuracy" not in values and "class_normal_rate_anomalies" not in values
    assert values["class_normal_rate"] > 0.9
