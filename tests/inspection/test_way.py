"""The way to a counterfactual, and its scores."""

import torch

from cfexplain.inspection.base import NUM_WAY_STEPS
from cfexplain.inspection.way import blended, way_images, way_logits
from tests.inspection.formulas import CPU, FormulaDetector


def flat(*levels):
    """(..., 1, 8, 8) uint8 of these levels."""
    return torch.tensor(levels, dtype=torch.uint8)[..., None, None, None].expand(*torch.tensor(levels).shape, 1, 8, 8)


def test_blend_by_hand():
    assert blended(flat(10), flat(20), 0.5)[0, 0, 0, 0] == 15
    assert blended(flat(20), flat(10), 0.24)[0, 0, 0, 0] == 18  # 17.6
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(blended(every, every.flip(3), 1.0), every.flip(3))
    assert torch.equal(blended(every, every.flip(3), 0.0), every)


def test_two_bins_are_a_straight_blend_and_the_highest_bin_has_no_say():
    sources, images = flat(0), flat([[160, 80], [255, 255]])  # (1, A = 2, K = 2): bin 1 is that of alpha = 1
    for step in range(NUM_WAY_STEPS):
        pictures = way_images(sources, images, step)
        assert pictures.shape == (1, 2, 1, 8, 8)
        assert pictures[0, :, 0, 0, 0].tolist() == [20 * step, 10 * step]


def test_more_bins_are_passed_in_falling_order():
    images = flat([[40], [120], [80], [255]])  # alpha = 0, 1/3, 2/3, 1
    levels = [way_images(flat(0), images, step)[0, 0, 0, 0, 0].item() for step in range(NUM_WAY_STEPS)]
    # three straight parts 0 -> 80 -> 120 -> 40 in eight steps: a stop after every 8/3 steps
    assert levels == [0, 30, 60, 85, 100, 115, 100, 70, 40]


def test_logits_of_the_way():
    detector = FormulaDetector(lambda images: images.mean(dim=(1, 2, 3)) * 127.5 + 127.5)
    ends = torch.tensor([-7.0]), torch.tensor([[160.0, 80.0]])  # the ends are taken over, not scored again
    logits = way_logits(detector, flat(0), flat([[160, 80], [255, 255]]), ends, CPU)
    expected = torch.tensor([[20.0 * step for step in range(9)], [10.0 * step for step in range(9)]])
    expected[:, 0] = -7
    torch.testing.assert_close(logits[0], expected)
