"""Validity, and the metrics that fit another detector: transfer and substitutability."""

from dataclasses import replace

import pytest
import torch

from cfexplain.detectors.base import logits_of
from cfexplain.errors import CfexplainWarning, FitError
from cfexplain.metrics.auroc import auroc
from cfexplain.metrics.substitutability import Substitutability, substituted_splits, substitutability_ratio
from cfexplain.metrics.transfer import Transfer
from cfexplain.metrics.validity import Validity, is_valid

SUBSTITUTABILITY = Substitutability(num_resamples=50, num_sources=2000)


def test_validity_counts_the_threshold_itself(planted):
    logits = torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[3.0, 2.0], [9.0, 9.0]]])  # (2, A, K); only bin 0 counts
    sources = planted.explanations.sources.select(torch.arange(2))
    explanations = replace(planted.explanations, sources=sources, logits=logits, threshold=2.0)
    assert is_valid(explanations).tolist() == [[True, True], [False, True]]
    values = Validity(num_resamples=50).compute(replace(planted, explanations=explanations))
    assert (values["validity"], values["validity_concept_0"], values["validity_concept_1"]) == (0.75, 0.5, 1.0)
    assert 0.5 <= values["validity_low"] <= 0.75 <= values["validity_high"] <= 1.0


def test_transfer_of_the_same_detector_has_no_gap(planted):
    seeds = []

    def same(splits, seed):
        seeds.append(seed)
        return planted.model.detector

    values = Transfer(num_resamples=50).compute(replace(planted, fit_detector=same))
    assert seeds == [planted.seed + 1000]
    assert values["transfer_gap"] == pytest.approx(0.0, abs=1e-6)
    assert values["transfer_validity"] == pytest.approx(is_valid(planted.explanations).mean())


def test_transfer_asks_the_other_detector(planted):
    values = Transfer(num_resamples=50).compute(planted)
    other, explanations = planted.fit_detector(planted.splits, planted.seed + 1000), planted.explanations
    normal = logits_of(other, planted.splits.test_normals.images)
    counterfactual = logits_of(other, explanations.images[:, 0].reshape(-1, *planted.splits.image_shape))
    assert values["transfer_auroc"] == pytest.approx(auroc(normal.numpy(), counterfactual.numpy()))
    expected = (counterfactual <= other.threshold).float().mean().item()
    assert values["transfer_validity"] == pytest.approx(expected)
    own = auroc(planted.test_normal_logits.numpy(), planted.explanations.logits[:, 0].numpy())
    assert values["transfer_gap"] == pytest.approx(values["transfer_auroc"] - own)
    assert values["transfer_gap"] != 0.0
    assert values["transfer_detector_auroc"] > 0.9
    assert values["transfer_auroc_low"] <= values["transfer_auroc"] <= values["transfer_auroc_high"]


def test_no_real_normal_and_no_test_image_enters(planted):
    splits = planted.splits
    replaced = substituted_splits(splits, planted.explain, num_sources=2000, seed=0)
    known = {id for part in (splits.train, splits.held_out, splits.test) for id in part.ids}
    made = replaced.train.ids + replaced.held_out.ids
    assert not known & set(made)
    sources = {id.rsplit("/", 1)[0] for id in made}
    assert sources <= set(splits.exposure.ids)
    assert len(sources) == 200 and len(made) == 400  # half of the exposure, two concepts
    assert not sources & set(replaced.exposure.ids)  # a source is never an outlier as well
    assert len(replaced.exposure) == 200
    held_out = {id.rsplit("/", 1)[0] for id in replaced.held_out.ids}
    assert not held_out & {id.rsplit("/", 1)[0] for id in replaced.train.ids}
    assert len(held_out) == 40  # as large a part as before, a fifth
    assert (replaced.train.labels == 0).all()


def test_images_are_those_of_their_ids(planted):
    exposure = planted.splits.exposure
    replaced = substituted_splits(planted.splits, planted.explain, num_sources=10, seed=0)
    for index in (0, 1):
        source, concept = replaced.train.ids[index].rsplit("/concept-", 1)
        one = exposure.select(torch.tensor([exposure.ids.index(source)]))
        assert torch.equal(planted.explain(one).counterfactuals[0, int(concept)], replaced.train.images[index])


def test_ratio_by_hand():
    assert substitutability_ratio(0.75, 1.0) == 0.5
    assert substitutability_ratio(0.9, 0.9) == pytest.approx(1.0)
    assert substitutability_ratio(0.5, 0.8) == 0.0


def test_planted_counterfactuals_substitute_and_anomalies_do_not(planted):
    good = SUBSTITUTABILITY.compute(planted)
    original = auroc(planted.test_normal_logits.numpy(), planted.explanations.source_logits.numpy())
    assert good["substitutability_ratio"] == pytest.approx(
        (good["substitutability_auroc"] - 0.5) / (original - 0.5)
    )  # fmt: skip

    def unchanged(images):
        explanations = planted.explain(images)
        return replace(explanations, images=images.images[:, None, None].expand_as(explanations.images))

    bad = SUBSTITUTABILITY.compute(replace(planted, explain=unchanged))
    assert good["substitutability_auroc"] > 0.8
    assert good["substitutability_auroc"] > bad["substitutability_auroc"] + 0.1


def test_left_out_with_a_warning(planted):
    with pytest.warns(CfexplainWarning, match="no exposure"):
        assert SUBSTITUTABILITY.compute(replace(planted, splits=replace(planted.splits, exposure=None))) == {}

    def collapses(splits, seed):
        raise FitError("collapse")

    with pytest.warns(CfexplainWarning, match="collapse"):
        assert SUBSTITUTABILITY.compute(replace(planted, fit_detector=collapses)) == {}
