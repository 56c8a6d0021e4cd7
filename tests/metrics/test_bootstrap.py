"""Intervals: they cover, and they resample sources rather than images."""

import numpy as np
import pytest

from cfexplain.metrics.bootstrap import share_with_interval


def width(values):
    return values["rate_high"] - values["rate_low"]


def test_interval_covers_the_true_share():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = share_with_interval("rate", rng.random((200, 1)) < 0.3, seed=trial, num_resamples=200)
        covered += values["rate_low"] <= 0.3 <= values["rate_high"]
    # 95 % of 200 is 190 with a standard deviation of 3; 178 lies four below, 199 is nearly always
    assert 178 <= covered <= 199


def test_images_of_one_source_count_as_one_draw():
    hits = np.random.default_rng(1).random((300, 1)) < 0.5
    once = share_with_interval("rate", hits, seed=0, num_resamples=500)
    copied = share_with_interval("rate", np.repeat(hits, 10, axis=1), seed=0, num_resamples=500)
    assert copied == pytest.approx(once)  # ten copies are no more evidence than one
    spread = share_with_interval("rate", np.repeat(hits, 10, axis=0), seed=0, num_resamples=500)
    assert width(spread) < 0.5 * width(once)


def test_share_among_some_by_hand():
    hits = np.array([[True, False], [True, True], [False, False]])
    among = np.array([[True, False], [True, True], [False, True]])
    values = share_with_interval("rate", hits, seed=0, num_resamples=100, among=among)
    assert values["rate"] == 3 / 4
    assert values["rate_low"] <= 3 / 4 <= values["rate_high"]


def test_sources_without_a_case_do_not_give_nan():
    among = np.zeros((30, 2), dtype=bool)
    among[0] = True
    values = share_with_interval("rate", among, seed=0, num_resamples=200, among=among)
    assert values == {"rate": 1.0, "rate_low": 1.0, "rate_high": 1.0}
