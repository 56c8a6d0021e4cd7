"""Average ranks and Spearman's correlation, against scipy."""

import numpy as np
import pytest
import scipy.stats

from cfexplain.metrics.ranks import average_ranks, spearman


def test_ranks_by_hand():
    assert average_ranks(np.array([10.0, -1.0, 10.0, 7.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


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
