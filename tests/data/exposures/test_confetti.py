"""Confetti: the blurred square against a plain Gaussian filter, what changes and what does not, scaling, seeds."""

import math

import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter

from cfexplain.config import build
from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.exposures.confetti import blurred_squares
from tests.conftest import ROOT

CONF = ROOT / "conf" / "exposure" / "confetti.yaml"


def spec(**changes):
    return build(yaml.safe_load(CONF.read_text(encoding="utf-8")) | changes, ExposureSpec, "exposure")


def request(normals):
    return ExposureRequest(normals=normals, learned=normals, others=None, class_names=(), cache_dir="")


def flat(count, side, value, channels=3):
    return np.full((count, channels, side, side), value, dtype=np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.3, -math.pi / 4])
def test_the_square_is_what_a_gaussian_filter_makes_of_it(angle):
    oversampling = 8  # the plain square is sampled eight times finer, filtered, and averaged
    fine = (np.arange(60 * oversampling) + 0.5) / oversampling - 0.5
    down, right = fine[:, None] - 30, fine - 25
    u = math.cos(angle) * right + math.sin(angle) * down
    v = math.cos(angle) * down - math.sin(angle) * right
    plain = ((abs(u) <= 7.5) & (abs(v) <= 7.5)).astype(float)
    fine_blurred = gaussian_filter(plain, 2.0 * oversampling)
    expected = fine_blurred.reshape(60, oversampling, 60, oversampling).mean(axis=(1, 3))
    both = blurred_squares((60, 60), *(torch.tensor([value] * 2) for value in (30, 25, 15.0, angle)), 2.0)
    # sampled at 45 degrees the plain square is 0.8 % too small
    assert np.abs(both.numpy() - expected).max() < 0.015


def test_a_square_at_the_border_is_cut():
    (values,) = blurred_squares((20, 30), *(torch.tensor([value]) for value in (0, 29, 8.0, 0.2)), 1.0)
    assert values.shape == (20, 30) and values[10:].max() < 1e-3
    assert values[0, -1] == pytest.approx(1.0, abs=1e-3)  # the middle of the square is the image's corner


@pytest.mark.parametrize("value", [0, 90, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_changes_in_a_small_part(value, channels):
    normals = flat(60, 64, value, channels)
    made = spec(limit=None).pictures(request(normals)).images
    change = np.abs(made.astype(int) - value).max(axis=1)  # (N, H, W)
    shares = (change > 10).mean(axis=(1, 2))
    assert made.shape == normals.shape
    assert (shares > 0).mean() > 0.95  # a colour may be close to nothing
    # at most six squares of 54 pixels at 240 px, and their soft edges, are rare; one of 8 pixels is the least
    assert shares.mean() < 0.25 and np.median(shares) > 0.002
    assert (change == 0).mean() > 0.5


def test_numbers_and_sizes_scale_with_the_image():
    shares = []
    for side in (30, 240):
        made = spec(limit=300).pictures(request(flat(1, side, 0))).images  # dark squares do not show on black
        shares.append((made.max(axis=1) > 60).mean())
    assert shares[0] == pytest.approx(shares[1], rel=0.25)  # 300 images: about 8 % of the mean by chance on each side


def test_as_many_squares_as_the_recipe_has():
    """On mid-grey dark squares show black and coloured ones do not: their area is 0.69, given at least one, squares."""
    made = spec(limit=800, blur_sigma=0.01, coloured_rate=1e-9).pictures(request(flat(1, 120, 100, 1))).images
    area = (made == 0).mean(axis=(1, 2, 3)) * 240**2
    mean = 1.2e-5 * 240**2 / (1 - math.exp(-1.2e-5 * 240**2))  # of a Poisson number that is not 0
    # E[side^2] of a side uniform in 8..54; squares over the border lose a part, so the whole is an upper bound
    whole = mean * (54**3 - 8**3) / (3 * 46)
    assert 0.8 * whole < area.mean() < whole


def test_bright_and_dark_images_both_show_colours():
    made = {value: spec(limit=40).pictures(request(flat(1, 64, value))).images for value in (10, 245)}
    for images in made.values():
        colourful = (images.max(axis=1).astype(int) - images.min(axis=1)).max(axis=(1, 2))
        assert (colourful > 40).mean() > 0.8


def test_each_normal_in_turn_and_as_many_as_are_asked_for():
    normals = np.stack([flat(1, 64, 20 * i)[0] for i in range(10)])
    made = spec(limit=25).pictures(request(normals)).images
    backgrounds = np.median(made, axis=(1, 2, 3))
    _, counts = np.unique(backgrounds, return_counts=True)
    assert sorted(counts) == [2] * 5 + [3] * 5
    assert len(spec(limit=None).pictures(request(normals))) == 10


def test_the_seed_decides():
    normals = flat(20, 32, 90)
    first, again, other = (spec(limit=40, seed=seed).pictures(request(normals)).images for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"min_side": 60}, "min_side"), ({"blur_sigma": 0}, "blur_sigma"), ({"dark_rate": 0}, "dark_rate"),
     ({"max_rotation": -1}, "max_rotation"), ({"coloured_rate": 0.5}, "coloured_rate")],
)  # fmt: skip
def test_values_out_of_range_are_refused(changes, message):
    from cfexplain.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        spec(**changes)
