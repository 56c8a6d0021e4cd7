"""Pictures show the pixels they were given."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfexplain.reporting.grids import (
    PAPER,
    GridRow,
    counterfactual_grid,
    draw_grid,
    film_strip,
    preview_grid,
    signed_difference,
    spread,
)
from cfexplain.types import Augmentation, Explanations, ImageSet, Splits


@pytest.fixture
def explanations() -> Explanations:
    rng = torch.Generator().manual_seed(0)
    sources = ImageSet(
        images=torch.randint(256, (3, 3, 16, 16), generator=rng).byte(), labels=torch.ones(3, dtype=torch.long),
        classes=torch.tensor([1, 0, -1]), ids=("a", "b", "c"),
    )
    return Explanations(
        sources=sources,
        images=torch.randint(256, (3, 2, 2, 3, 16, 16), generator=rng).byte(),
        logits=torch.tensor([[[-3.0, 1.0], [2.0, 2.0]]] * 3),
        source_logits=torch.tensor([4.0, -2.5, 4.0]),
        threshold=-2.0,
    )


def test_each_image_is_enlarged_by_a_whole_factor_and_kept():
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 28, 28), dtype=np.uint8)
    canvas = np.asarray(draw_grid([GridRow(label="x", images=image, captions=["0.50"])]))
    large = np.kron(image[0, 0], np.ones((4, 4), np.uint8))  # 28 px four times: 112
    places = [
        (y, x) for y in range(canvas.shape[0] - 111) for x in range(canvas.shape[1] - 111)
        if canvas[y, x, 0] == large[0, 0] and (canvas[y : y + 112, x : x + 112, 1] == large).all()
    ]
    assert len(places) == 1


def test_text_is_dark_on_white_and_stands_under_each_image():
    black = np.zeros((2, 3, 28, 28), np.uint8)
    with_text = np.asarray(draw_grid([GridRow(label="row", images=black, captions=["0.12", "0.34"])]))
    without = np.asarray(draw_grid([GridRow(label="row", images=black, captions=["", " "])]))
    assert tuple(with_text[-1, 0]) == PAPER
    changed = (with_text != without).any(axis=2)
    rows, columns = changed.nonzero()
    assert rows.min() > 112 and with_text[changed].min() < 80
    middle = with_text.shape[1] // 2
    assert (columns < middle).any() and (columns > middle).any()


def test_a_change_of_hue_alone_shows_and_no_change_is_neutral():
    red, green = np.zeros((3, 1, 1), np.uint8), np.zeros((3, 1, 1), np.uint8)
    red[0], green[1] = 255, 255
    assert np.ptp(signed_difference(red, red)) == 0
    assert np.ptp(signed_difference(red, green)) > 50
    dark, bright = np.zeros((1, 1, 1), np.uint8), np.full((1, 1, 1), 255, np.uint8)
    brighter, darker = signed_difference(dark, bright)[:, 0, 0], signed_difference(bright, dark)[:, 0, 0]
    assert brighter[0] > brighter[2] and darker[2] > darker[0]  # red for brighter, blue for darker


def test_grid_and_strip_have_a_column_per_image(explanations):
    two, three = counterfactual_grid(explanations, [0, 2]), counterfactual_grid(explanations, [0, 1, 2])
    assert three.width - two.width == 16 * 6 + 8  # one more image of 16 px, six times, and a gap
    assert film_strip(explanations, 0).width >= 3 * (16 * 6 + 8)  # the source and two alpha bins


def test_spread_takes_both_ends():
    assert spread(100, 3) == [0, 50, 99] and spread(2, 12) == [0, 1] and spread(0, 5) == []


def test_a_preview_shows_what_augmentation_does_to_the_normal_images():
    ramp = torch.arange(16, dtype=torch.uint8).mul(10).expand(2, 1, 16, 16).contiguous()  # brighter to the right
    images = ImageSet(images=ramp, labels=torch.zeros(2, dtype=torch.long), classes=torch.zeros(2, dtype=torch.long),
                      ids=("a", "b"))
    plain = Splits(train=images, held_out=images, exposure=None, test=images, reference=images, class_names=("x",),
                   factors=None)
    shifted = replace(plain, augmentation=Augmentation(flip=False, crop_padding=4))
    one, other = np.asarray(preview_grid(plain)), np.asarray(preview_grid(shifted))
    assert other.shape[0] - one.shape[0] == 16 * 6 + 8  # a row of 16 px images, six times, without captions
    line = 16 * 6 + 8 + 15 + 6
    left = other.shape[1] - 2 * (16 * 6 + 8)
    normal, augmented = (other[8 + top : 8 + top + 96, left : left + 96, 0] for top in (0, line))
    assert (normal[:, ::6] == ramp[0, 0, 0].numpy()).all()
    assert (augmented != normal).any() and set(np.unique(augmented)) <= set(np.unique(normal))


def test_a_change_of_hue_that_keeps_the_brightness_has_one_colour():
    red, green = np.meshgrid(np.arange(20, 120), np.arange(20, 120))
    change = np.stack([red, green, -red - green])  # adds up to 0, which sums of fractions miss now and then
    source = np.full((3, 100, 100), 0)
    source[2] = 255
    colours = signed_difference(source.astype(np.uint8), (source + change).astype(np.uint8)).astype(int)
    assert (colours[0] > colours[2]).all()
