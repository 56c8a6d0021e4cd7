"""Losses: values by hand, properties, numerical edges."""

import math

import pytest
import torch

from cfexplain.explanation.objective import (
    diversity_losses, hinge_losses, l1_distances, matching_loss, noisy, overlap_losses, perceptual_losses,
    region_losses, repair_loss, score_losses,
)
from tests.specs import small_fit


def test_learning_rates_fall_in_a_straight_line_at_the_end():
    training = small_fit(steps=8, decay=0.5, learning_rate=0.1, discriminator_learning_rate=0.4)
    assert [training.learning_rates(step)[0] for step in (0, 4, 5, 7)] == pytest.approx([0.1, 0.1, 0.075, 0.025])
    assert training.learning_rates(7)[1] == pytest.approx(0.1)
    assert small_fit(steps=8, decay=0.0, learning_rate=0.1).learning_rates(7)[0] == 0.1


def test_hinge_losses_by_hand():
    logits = torch.tensor([-2.0, 0.5, 3.0])
    assert hinge_losses(logits, is_real=True).tolist() == [3.0, 0.5, 0.0]
    assert hinge_losses(logits, is_real=False).tolist() == [0.0, 1.5, 4.0]


def test_noise_has_the_asked_deviation_and_zero_leaves_images_alone():
    images, noise = torch.full((64, 1, 32, 32), 0.5), torch.Generator().manual_seed(0)
    assert noisy(images, 0.0, noise) is images
    added = noisy(images, 0.2, noise) - images
    assert added.std().item() == pytest.approx(0.2, rel=0.02) and abs(added.mean().item()) < 0.01


def test_score_loss_by_hand():
    log_half = torch.tensor([math.log(0.5), math.log(0.25)])
    log_rest = torch.tensor([math.log(0.5), math.log(0.75)])
    losses = score_losses(log_half, log_rest, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(losses, torch.tensor([math.log(2), math.log(4)]))


def test_score_loss_stops_at_the_normals_level_only_for_alpha_zero():
    log_normal = torch.tensor([-0.1, -0.5, -0.1], requires_grad=True)
    log_anomalous = torch.tensor([-2.0, -1.0, -2.0])
    losses = score_losses(log_anomalous, log_normal, torch.tensor([0.0, 0.0, 1.0]), stop=0.2)
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.3, 2.0]))
    losses.sum().backward()
    assert log_normal.grad.tolist() == [0.0, -1.0, 0.0]


def test_matching_loss_is_the_transport_cost_in_reference_deviations():
    quantiles = torch.tensor([-9.0, 0.0, 2.698, 90.0])  # quartiles 2.698 apart: a standard deviation of 2, tails or not
    shifted = torch.tensor([91.0, -8.0, 3.698, 1.0])  # each one 1 above its partner, in another order
    torch.testing.assert_close(matching_loss(shifted, quantiles), torch.tensor(0.5))


@pytest.mark.parametrize("seed", range(5))
def test_matching_loss_ignores_order_and_is_zero_only_for_the_same_values(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(20, generator=generator).sort().values
    assert matching_loss(values[torch.randperm(20, generator=generator)], values) == 0
    assert matching_loss(values - 1, values) > 0.5  # lower scores cost as much as higher ones: no reward below normal
    torch.testing.assert_close(matching_loss(values - 1, values), matching_loss(values + 1, values))


def test_matching_is_in_logits_where_one_normal_image_has_no_spread():
    assert matching_loss(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])).item() == pytest.approx(1.5)


def test_l1_distance_by_hand():
    images = torch.zeros(2, 1, 2, 2)
    others = torch.stack([torch.ones(1, 2, 2), torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])])
    torch.testing.assert_close(l1_distances(images, others), torch.tensor([1.0, 0.5]))


def test_repair_loss_by_hand():
    origins, drawn, repaired = (torch.zeros(2, 1, 2, 3) for _ in range(3))
    drawn[0, 0, 0, 1], drawn[0, 0, 1, 2], repaired[1, 0, 1, 1] = 0.6, 0.9, 0.3
    masks = torch.zeros(2, 2, 3, dtype=torch.bool)
    masks[0, 0], masks[1, 1, 1] = True, True
    # in the masks' four pixels: .6 and its steps right and below; left of it the step of .6; above .9 the step of .9
    wanted = (3 * 0.6 + 0.6 + 0.9) / 4
    def loss(masks, whole=0.0, drawn_whole=0.0):
        return repair_loss(repaired, drawn, origins, masks, whole, drawn_whole).item()

    assert loss(masks) == pytest.approx(wanted)
    assert loss(masks, whole=2.0) == pytest.approx(wanted + 2 * 0.3 / 12)
    assert loss(torch.zeros_like(masks), whole=2.0) == pytest.approx(0.05)
    # of all twelve pixels also .9 itself, its step from the pixel on its left, and from the one above
    everywhere = (3 * 0.6 + 0.6 + 0.9 + 0.9 + 0.9) / 12
    assert loss(masks, drawn_whole=3.0) == pytest.approx(wanted + 3 * everywhere)


def test_perceptual_losses_by_hand():
    ours, theirs = torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2)
    ours[:, 0], theirs[0, 0], theirs[1, 1] = 2.0, 5.0, 1.0  # one direction whatever its length; at right angles: 2
    theirs[1, :, 0, 1] = torch.tensor([3.0, 0.0])  # at one of the two places
    second = torch.ones(2, 3, 2, 2)
    torch.testing.assert_close(perceptual_losses([ours, second], [theirs, -second]), torch.tensor([4 / 2, (1 + 4) / 2]))


def test_region_losses_by_hand():
    masks = torch.tensor([[[True, False]]] * 2)
    logits = torch.tensor([0.0, 0.0, 40.0, -40.0]).view(2, 1, 1, 2)
    undecided, right = region_losses(logits, masks).tolist()
    # half of each pixel: focal (1/2)^2 log 2; Dice 1 - (2 * .5 + 1) / (1 + 1 + 1)
    assert undecided == pytest.approx(10 * 0.25 * math.log(2) + 1 / 3) and right == pytest.approx(0, abs=1e-6)
    assert region_losses(-logits, masks)[1] > 10 * 39


def test_diversity_loss_by_hand():
    black, white = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    sets = torch.stack([torch.stack([black, black]), torch.stack([black, white])])  # (2, 2, 1, 8, 8)
    torch.testing.assert_close(diversity_losses(sets, margin=0.3), torch.tensor([0.3, 0.0]))


def test_diversity_does_not_see_a_fine_mark():
    checkers = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1)[None]  # mean 0 in each pooled cell
    sets = torch.stack([torch.zeros(1, 8, 8), checkers])[None]
    torch.testing.assert_close(diversity_losses(sets, margin=0.3), torch.tensor([0.3]))


def test_overlap_is_one_for_the_same_edit_and_zero_for_edits_in_other_places():
    source = torch.zeros(1, 1, 2, 2)
    left, right = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    same = overlap_losses(source, torch.stack([left, -left])[None])  # a sign does not make it another edit
    other = overlap_losses(source, torch.stack([left, right])[None])
    torch.testing.assert_close(same, torch.ones(1), atol=0.03, rtol=0)  # eps = 0.01 in each norm of 1.4
    torch.testing.assert_close(other, torch.zeros(1))


def test_overlap_gradient_is_finite_without_an_edit():
    counterfactuals = torch.zeros(1, 2, 1, 4, 4, requires_grad=True)
    overlap_losses(torch.zeros(1, 1, 4, 4), counterfactuals).sum().backward()
    assert counterfactuals.grad.isfinite().all()
