"""Distances by hand; correlation of wanted and reached score."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from cfexplain.errors import CfexplainWarning, ConfigError
from cfexplain.metrics.alpha import Alpha, alpha_correlation, spearman
from cfexplain.metrics.distance import Distance, changed_fractions, l1_distances, level_changes


def test_distances_by_hand():
    # Two channels, four pixels; 12 levels are 0.094 in [-1, 1] units, 13 are 0.102.
    sources = torch.full((1, 2, 2, 2), 100, dtype=torch.uint8)
    counterfactuals = sources[:, None].repeat(1, 2, 1, 1, 1)
    counterfactuals[0, 0, 0, 0, 0] -= 13  # changed
    counterfactuals[0, 0, 1, 0, 0] += 50  # the same pixel
    counterfactuals[0, 0, 1, 1, 1] += 12  # too little
    counterfactuals[0, 1, 1, 0, 1] -= 100  # changed, to black
    changes = level_changes(sources[:, None], counterfactuals)
    assert changed_fractions(changes, 0.1).tolist() == [[1 / 4, 1 / 4]]
    assert (l1_distances(changes) * 127.5).tolist() == [pytest.approx([(13 + 50 + 12) / 8, 100 / 8])]


def test_black_to_white_is_two_units():
    black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    assert l1_distances(level_changes(black[:, None], black[:, None] + 255)).mean() == pytest.approx(2.0)
    assert l1_distances(level_changes(black[:, None] + 255, black[:, None])).mean() == pytest.approx(2.0)


def test_distances_of_the_planted_run(planted):
    values = Distance(change_threshold=0.1).compute(planted)
    images, sources = planted.explanations.counterfactuals, planted.explanations.sources.images
    floats = (images.double() / 127.5 - 1) - (sources.double() / 127.5 - 1)[:, None]
    assert values["l1_distance"] == pytest.approx(floats.abs().mean().item())
    assert values["changed_fraction"] == pytest.approx((floats.abs().amax(dim=2) > 0.1).double().mean().item())


@pytest.mark.parametrize("seed", range(3))
def test_alpha_correlation_is_scipys_as_a_share_of_the_largest(seed):
    logits = np.random.default_rng(seed).normal(size=(20, 4, 2)) + np.arange(4)[:, None]
    alphas = [a / 3 for _ in range(20) for a in range(4) for _ in range(2)]
    largest = scipy.stats.spearmanr(sorted(alphas), np.sort(logits.ravel())).statistic
    assert largest < 0.97 and alpha_correlation(logits) == pytest.approx(
        scipy.stats.spearmanr(alphas, logits.ravel()).statistic / largest
    )


def test_alpha_correlation_follows_the_order_of_the_bins(planted):
    explanations = planted.explanations
    steered = torch.tensor([-1.0, 1.0]).view(1, 2, 1) + torch.linspace(0, 0.1, explanations.logits.numel()).view(
        explanations.logits.shape
    )
    # Two bins cannot rank within themselves: the best Spearman of a half-and-half split is sqrt(3)/2, which counts as 1
    values = Alpha().compute(replace(planted, explanations=replace(explanations, logits=steered)))
    assert values["alpha_correlation"] == pytest.approx(1.0)
    values = Alpha().compute(replace(planted, explanations=replace(explanations, logits=-steered)))
    assert values["alpha_correlation"] == pytest.approx(-1.0)


def test_one_bin_is_an_error_and_equal_scores_a_warning(planted):
    explanations = planted.explanations
    with pytest.raises(ConfigError, match="2 alpha bins"):
        Alpha().compute(replace(planted, explanations=replace(explanations, logits=explanations.logits[:, :1])))
    constant = replace(explanations, logits=torch.ones_like(explanations.logits))
    with pytest.warns(CfexplainWarning, match="score the same"):
        assert Alpha().compute(replace(planted, explanations=constant)) == {}


@pytest.mark.parametrize("seed", range(5))
def test_spearman_equals_scipy_with_ties(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(5, size=60), rng.normal(size=60).round(1)
    expected = scipy.stats.spearmanr(first, second).statistic
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_rising_and_falling():
    values = np.array([0.0, 1.0, 5.0, 100.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -(values**3)) == pytest.approx(-1.0)


def test_spearman_of_a_constant_or_nan_is_an_error():
    with pytest.raises(ValueError, match="constant"):
        spearman(np.ones(3), np.arange(3.0))
    with pytest.raises(ValueError, match="NaN"):
        spearman(np.array([1.0, np.nan, 2.0]), np.arange(3.0))
