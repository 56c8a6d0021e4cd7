"""Thresholds from the false-alarm rate, of the detector and of each alteration; neighbours and their distances;
the distance to the third-nearest normal image, and which image is the nearest."""

import math
from dataclasses import replace

import pytest
import torch
import yaml

from cfexplain.detectors.bce import Bce
from cfexplain.detectors.fitting import calibrate
from cfexplain.detectors.base import build_detector, logits_of
from cfexplain.encoders.conv import Conv
from cfexplain.inspection.reference import build_reference, every_nth, manifold_distances, nearest_rows
from tests.conftest import ROOT
from tests.inspection.formulas import CPU, USUAL, FormulaDetector, image_set, splits_of


def brightness(images):
    return images.mean(dim=(1, 2, 3)) * 127.5 + 127.5  # mean level, 0 to 255


def fine_contrast(images):
    """Mean level difference of neighbouring columns: what a blur takes away."""
    return (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3)) * 127.5


def reference_of(formula, splits, features, rate=0.05, second=None):
    return build_reference(FormulaDetector(formula), splits, features, second, rate, CPU, USUAL)


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / "conf" / name).read_text())


def test_a_verdict_asks_for_the_alterations_and_features_of_the_metrics():
    judging = read("judging.yaml")
    survival, fid = read("metric/survival.yaml")["survival"], read("metric/fid.yaml")["fid"]
    assert {name: judging["alterations"][name] for name in vars(USUAL)} == vars(USUAL)
    assert {name: survival[name] for name in vars(USUAL)} == vars(USUAL)
    names = ("width", "num_features", "num_steps")  # then the network is trained once and kept for both
    assert [judging["features"][name] for name in names] == [fid[name] for name in names]


def test_a_rate_of_5_per_cent_gives_the_detectors_own_threshold(pixel_space):
    images = torch.randint(256, (57, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    spec = Bce(embedding_dim=8, steps=1, batch_size=2, learning_rate=1e-3, weight_decay=0.0)
    detector = build_detector(spec, Conv(width=4), (3, 16, 16), seed=0).eval()
    splits = splits_of(images, images)
    calibrate(detector, splits.held_out, CPU)
    reference = build_reference(detector, splits, pixel_space, None, 0.05, CPU, USUAL)
    assert reference.threshold == detector.threshold.item()
    assert reference.normal_logits.tolist() == sorted(logits_of(detector, images).tolist())


@pytest.mark.parametrize("rate", [0.3, 0.1])
def test_the_rate_is_the_share_of_normals_above(grey, pixel_space, rate):
    normals = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16)
    reference = reference_of(brightness, splits_of(normals, normals), pixel_space, rate)
    assert (reference.normal_logits > reference.threshold).float().mean().item() == pytest.approx(rate, abs=0.006)


def test_an_alteration_has_the_threshold_of_altered_normals(grey, pixel_space):
    noisy = grey.held_out.images.repeat(10, 1, 1, 1).int()
    noisy += torch.randint(-9, 10, noisy.shape, generator=torch.Generator().manual_seed(0))
    splits = splits_of(grey.train.images, noisy.byte())
    reference = reference_of(fine_contrast, splits, pixel_space, 0.1)
    _, _, blur = reference.alteration_thresholds
    assert blur == reference.threshold  # a blur lowers the logit: what counted as normal before still does
    inverse = reference_of(lambda images: -fine_contrast(images), splits, pixel_space, 0.1)
    assert inverse.alteration_thresholds[2] > inverse.threshold + 2  # and here it raises that of every normal image
    assert inverse.normal_survival > 0.8  # by the plain threshold none of them would survive


def test_normal_survival_by_hand(grey, pixel_space):
    held_out = grey.held_out.images  # levels 20, 24, ..., 56
    second = FormulaDetector(lambda images: -brightness(images))  # its threshold leaves out the darkest one
    reference = reference_of(brightness, grey, pixel_space, 0.1, second)
    assert reference.second_threshold == pytest.approx(-23.6, abs=1e-4)
    passing = 9  # of 10, the brightest is above the threshold; one of those fails the second detector
    assert len(held_out) == 10
    assert reference.normal_survival == pytest.approx((passing - 1) / passing)
    without = reference_of(brightness, grey, pixel_space, 0.1)
    assert without.normal_survival == 1.0 and math.isnan(without.second_threshold)


@pytest.mark.parametrize("count", [1, 5])
def test_few_held_out_normals_are_enough(grey, pixel_space, count):
    few = grey.held_out.images[:count]
    reference = reference_of(brightness, splits_of(grey.train.images, few), pixel_space)
    assert few.min() - 1e-4 <= reference.threshold <= few.max() + 1e-4
    assert 0 < reference.distance_limit < math.inf


def test_a_single_training_image_is_enough(grey, pixel_space):
    reference = reference_of(brightness, splits_of(grey.train.images[:1], grey.held_out.images), pixel_space)
    # 10 held-out levels 20 to 56 against level 21, over 768 pixels: the 99 % quantile is near the largest, 35
    assert reference.distance_limit == pytest.approx((31 + 0.91 * 4) * math.sqrt(768))


def test_neighbours_are_spread_evenly_and_not_copied():
    images = image_set(torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous())
    images = replace(images, is_mapped=True)
    chosen = every_nth(images, 30)
    assert chosen.images[:, 0, 0, 0].tolist() == list(range(0, 100, 4))
    assert chosen.ids == tuple(f"image/{i}" for i in range(0, 100, 4))
    assert chosen.is_mapped and chosen.images.data_ptr() == images.images.data_ptr()
    assert len(every_nth(images, 100)) == 100


def test_distance_to_the_third_nearest_by_hand():
    neighbours = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    assert manifold_distances(torch.tensor([[0.0, 0.0], [6.0, 8.0]]), neighbours).tolist() == pytest.approx(
        [5.0, (36 + 49) ** 0.5]
    )


def test_fewer_than_three_neighbours():
    assert manifold_distances(torch.tensor([[1.0]]), torch.tensor([[0.0], [4.0]])).tolist() == [3.0]
    assert manifold_distances(torch.tensor([[1.0]]), torch.tensor([[0.0]])).tolist() == [1.0]


def test_a_stray_normal_image_makes_no_neighbourhood():
    around_zero = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with_stray = torch.cat([around_zero, torch.tensor([[30.0, 0.0]])])
    assert manifold_distances(torch.tensor([[30.0, 0.0]]), with_stray).item() > 20


def test_equal_features_have_no_distance():
    features = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 100
    many = features.repeat(20, 1)  # 60 rows, where torch would take products and lose the last digits
    assert manifold_distances(features, many).tolist() == [0.0, 0.0, 0.0]


def test_nearest_in_features_then_in_pixels():
    levels = torch.tensor([10, 200, 90, 60], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    neighbours, features = image_set(levels, "train"), torch.tensor([[5.0], [1.0], [1.0], [1.0]])
    images = torch.full((2, 1, 4, 4), 80, dtype=torch.uint8)
    rows = nearest_rows(images, torch.tensor([[1.2], [4.0]]), neighbours, features)
    assert rows.tolist() == [2, 0]  # three are as near in features: level 90 is nearest to 80; then feature 5
