"""Concept accuracy: what a stranger can tell, and that it is tested on sources it never saw."""

from dataclasses import replace

import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.concept import Concept, concept_pairs, split_sources

SPEC = Concept(num_resamples=100, test_fraction=0.25, width=4, num_steps=40)


@pytest.mark.parametrize("num_sources", [2, 3, 100, 101])
def test_no_source_is_on_both_sides(num_sources):
    train, test = split_sources(num_sources, 0.25, seed=0)
    assert torch.cat([train, test]).sort().values.tolist() == list(range(num_sources))
    assert len(train) and len(test)
    if num_sources == 100:
        assert len(test) == 25


def test_pairs_by_hand():
    sources = torch.tensor([1, 2], dtype=torch.uint8).view(2, 1, 1, 1)
    counterfactuals = torch.tensor([[3, 4], [5, 6]], dtype=torch.uint8).view(2, 2, 1, 1, 1)
    assert concept_pairs(sources, counterfactuals).flatten(2).tolist() == [[[1, 3], [1, 4]], [[2, 5], [2, 6]]]


def test_planted_concepts_are_told_apart(planted):
    values = SPEC.compute(planted)
    assert values["concept_accuracy_joint"] == 1.0  # R knows the formula
    assert values["concept_accuracy_fresh"] > 0.9
    assert values["concept_accuracy_fresh_low"] <= values["concept_accuracy_fresh"]


def with_images(planted, images):
    return replace(planted, explanations=replace(planted.explanations, images=images))


def test_equal_counterfactuals_are_not_told_apart(planted):
    images = planted.explanations.images
    values = SPEC.compute(with_images(planted, images[:, :, :1].expand_as(images)))
    assert values["concept_accuracy_fresh"] == 0.5
    assert values["concept_accuracy_joint"] == 0.5


def test_memory_of_the_source_does_not_help(planted):
    # Per source, chance decides which image is called concept 0: knowing the source gives it away, nothing else does.
    images = planted.explanations.images.clone()
    swap = torch.rand(len(images), generator=torch.Generator().manual_seed(0)) < 0.5
    images[swap] = images[swap].flip(2)
    values = replace(SPEC, num_steps=150).compute(with_images(planted, images))
    # 50 test sources, whose two pairs are mostly right or wrong together: standard deviation about 0.07
    assert 0.25 < values["concept_accuracy_fresh"] < 0.75


def test_one_concept_is_left_out_with_a_warning(planted):
    with pytest.warns(CfexplainWarning, match="left out"):
        assert SPEC.compute(with_images(planted, planted.explanations.images[:, :, :1])) == {}
