"""The way to a counterfactual and its scores.

Minimal repair: the share of the way by hand, patches that need no change, scores that do not fall steadily.
"""

import pytest
import torch

from cfexplain.detectors.base import logits_of
from cfexplain.inspection.base import NUM_WAY_STEPS
from cfexplain.inspection.repair import blended, minimal_repairs, patch_numbers, way_images, way_logits
from tests.inspection.formulas import CPU, FormulaDetector


def level(images):
    return images.mean(dim=(1, 2, 3)) * 127.5 + 127.5


def corner_level(images):
    """Of the upper left quarter alone."""
    return level(images[:, :, :8, :8])


def repaired(formula, sources, counterfactuals, threshold):
    detector = FormulaDetector(formula)
    assert (logits_of(detector, counterfactuals) <= threshold).all()
    repairs = minimal_repairs(detector, sources, counterfactuals, threshold, CPU)
    assert (logits_of(detector, repairs) <= threshold).all()
    return repairs


def flat(*levels):
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 16, 16)


def test_the_least_change_of_a_flat_image():
    repairs = repaired(level, flat(200, 200), flat(0, 100), 120.0)
    change = 200 - repairs.float().mean(dim=(1, 2, 3))
    # 80 levels on average are needed; rounding to 8 bit and whole patches cost a few
    assert (change >= 80).all() and (change < 83).all()


def test_what_the_detector_does_not_see_stays():
    sources, counterfactuals = flat(200), flat(50)
    repairs = repaired(corner_level, sources, counterfactuals, 60.0)
    is_back = (repairs == sources).all(dim=1)[0]
    assert is_back[:8, :8].sum() == 4  # one of 16 patches: 150 levels of it are 9.4 on average, and 10 are to spare
    assert is_back[8:].all() and is_back[:, 8:].all()


def test_the_costliest_patches_stay_changed():
    weights = torch.ones(16, 16)
    weights[4:6, 4:6] = 40  # one patch of 64 carries 160 / 412 of the score
    score = lambda images: ((images + 1) * 127.5 * weights).mean(dim=(1, 2, 3)) * 256 / 412  # noqa: E731
    change = (repaired(score, flat(200), flat(0), 130.0).float() - 200).abs().mean(dim=1)[0]
    # 200 * 160 / 412 = 78 of the 200 levels lie in this patch, 70 are wanted: it alone suffices, nearly as a whole
    assert change[4:6, 4:6].min() > 175 and (change > 0).sum() == 4


def test_a_score_that_rises_again_is_no_obstacle():
    """Normal only near level 150 and below 60: on the way from 200 to 0 the first of these comes early."""

    def dip(images):
        levels = level(images)
        return torch.where(((levels - 150).abs() < 8) | (levels < 60), -1.0, 1.0) + 0 * levels

    repairs = repaired(dip, flat(200), flat(0), 0.0)
    assert repairs.float().mean() > 140


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_on_a_rough_score(seed):
    """A random network: each repair passes (asserted in `repaired`) and changes no pixel beyond its counterfactual."""
    rng = torch.Generator().manual_seed(seed)
    first, second = torch.randn(3 * 256, 16, generator=rng), torch.randn(16, generator=rng)

    def network(images):
        return (images.flatten(1) @ first / 4).sin() @ second

    sources, counterfactuals = torch.randint(256, (2, 20, 3, 16, 16), generator=rng, dtype=torch.uint8)
    threshold = logits_of(FormulaDetector(network), counterfactuals).max().item()
    repairs = repaired(network, sources, counterfactuals, threshold)
    low, high = torch.minimum(sources, counterfactuals), torch.maximum(sources, counterfactuals)
    assert ((repairs >= low) & (repairs <= high)).all()
    least, whole = ((images.float() - sources.float()).abs().sum() for images in (repairs, counterfactuals))
    assert least < 0.7 * whole


def test_the_number_of_passes_is_bounded():
    calls = []

    class Counting(FormulaDetector):
        def log_probs(self, images):
            calls.append(len(images))
            return super().log_probs(images)

    detector = Counting(lambda images: level(images) + 3 * level(images[:, :, :4]))
    sources, counterfactuals = flat(*range(180, 220)), flat(*range(40))
    calls.clear()
    minimal_repairs(detector, sources, counterfactuals, 300.0, CPU)
    assert calls == [40] * (3 * (1 + 5) + 7 + 5)


def test_patches_cover_any_size():
    numbers = patch_numbers(28, 20)
    assert numbers.unique().tolist() == list(range(64))
    counts = numbers.flatten().bincount()
    assert counts.min() >= 3 * 2 and counts.max() <= 4 * 3
    assert patch_numbers(5, 16).max() == 5 * 8 - 1


def flat_grey(*levels):
    """(..., 1, 8, 8) uint8 of these levels."""
    return torch.tensor(levels, dtype=torch.uint8)[..., None, None, None].expand(*torch.tensor(levels).shape, 1, 8, 8)


def test_blend_by_hand():
    assert blended(flat_grey(10), flat_grey(20), 0.5)[0, 0, 0, 0] == 15
    assert blended(flat_grey(20), flat_grey(10), 0.24)[0, 0, 0, 0] == 18  # 17.6
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(blended(every, every.flip(3), 1.0), every.flip(3))
    assert torch.equal(blended(every, every.flip(3), 0.0), every)


def test_two_bins_are_a_straight_blend_and_the_highest_bin_has_no_say():
    sources, images = flat_grey(0), flat_grey([[160, 80], [255, 255]])  # (1, A = 2, K = 2): bin 1 is that of alpha = 1
    for step in range(NUM_WAY_STEPS):
        pictures = way_images(sources, images, step)
        assert pictures.shape == (1, 2, 1, 8, 8)
        assert pictures[0, :, 0, 0, 0].tolist() == [20 * step, 10 * step]


def test_more_bins_are_passed_in_falling_order():
    images = flat_grey([[40], [120], [80], [255]])  # alpha = 0, 1/3, 2/3, 1
    levels = [way_images(flat_grey(0), images, step)[0, 0, 0, 0, 0].item() for step in range(NUM_WAY_STEPS)]
    # three straight parts 0 -> 80 -> 120 -> 40 in eight steps: a stop after every 8/3 steps
    assert levels == [0, 30, 60, 85, 100, 115, 100, 70, 40]


def test_logits_of_the_way():
    detector = FormulaDetector(lambda images: images.mean(dim=(1, 2, 3)) * 127.5 + 127.5)
    ends = torch.tensor([-7.0]), torch.tensor([[160.0, 80.0]])  # the ends are taken over, not scored again
    logits = way_logits(detector, flat_grey(0), flat_grey([[160, 80], [255, 255]]), ends, CPU)
    expected = torch.tensor([[20.0 * step for step in range(9)], [10.0 * step for step in range(9)]])
    expected[:, 0] = -7
    torch.testing.assert_close(logits[0], expected)
