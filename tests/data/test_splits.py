"""Hold-out and removal of duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from cfexplain.data.reading.raw_images import numbered
from cfexplain.data.splits import hold_out, image_set, not_among


def make_set(size: int):
    images = np.random.default_rng(0).integers(256, size=(size, 4, 4))
    return image_set(numbered("train", images, np.zeros(size)), 0)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_hold_out_takes_its_share_of_each_stratum(fraction):
    strata = np.array([0] * 300 + [1] * 100)
    train, held_out = hold_out(make_set(400), strata, fraction, seed=0)
    numbers = np.array([int(name[-5:]) for name in held_out.ids])
    assert np.bincount(strata[numbers]).tolist() == [300 * fraction, 100 * fraction]
    assert sorted(train.ids + held_out.ids) == sorted(make_set(400).ids)


def test_hold_out_depends_on_the_seed_alone():
    strata = np.zeros(100)
    first, again, other = (hold_out(make_set(100), strata, 0.1, seed)[1].ids for seed in (0, 0, 1))
    assert first == again != other


def test_a_rare_stratum_is_held_out_too():
    _, held_out = hold_out(make_set(103), np.array([0] * 100 + [1] * 3), 0.1, seed=0)
    assert len(held_out) == 11


def test_not_among_compares_every_pixel():
    images = np.zeros((3, 4, 4), dtype=np.uint8)
    images[1, 3, 3] = 1
    images[2, 0, 0] = 7
    assert not_among(images, images[[0, 2]]).tolist() == [False, True, False]
    # A view with other strides holds the same pixels.
    assert not_among(images.transpose(0, 2, 1), images).tolist() == [False, False, False]
