"""Detector formulas: values by hand and numerical edges."""

import math

import pytest
import torch

from cfexplain.detectors.bce import bce_log_probs, bce_losses
from cfexplain.detectors.dsvdd import dsvdd_log_probs, squared_distances
from cfexplain.detectors.hsc import hsc_log_probs, hsc_losses


def test_hsc_loss_by_hand():
    # |z|^2 = 3, so the pseudo-Huber distance is sqrt(3 + 1) - 1 = 1
    z = torch.tensor([[3**0.5, 0.0]])
    torch.testing.assert_close(hsc_losses(z, torch.tensor([0])), torch.tensor([1.0]))
    torch.testing.assert_close(hsc_losses(z, torch.tensor([1])), torch.tensor([-math.log(1 - math.exp(-1))]))


@pytest.mark.parametrize("seed", range(5))
def test_hsc_loss_ignores_rotation(seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(32, 8, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    labels = torch.randint(2, (32,), generator=generator)
    torch.testing.assert_close(hsc_losses(z @ rotation, labels), hsc_losses(z, labels))


def test_hsc_gradient_is_finite_at_the_centre():
    z = torch.zeros(1, 4, requires_grad=True)
    hsc_losses(z, torch.tensor([1])).sum().backward()
    assert z.grad.isfinite().all()


def test_bce_loss_is_the_library_one():
    logits, labels = torch.tensor([-30.0, -1.0, 0.5, 40.0]), torch.tensor([1, 0, 1, 0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    torch.testing.assert_close(bce_losses(logits, labels), expected)


def test_bce_logit_survives_where_the_score_rounds_to_one():
    logits = torch.tensor([-200.0, 50.0, 60.0, 1000.0], requires_grad=True)
    log_anomalous, log_normal = bce_log_probs(logits)
    torch.testing.assert_close(log_anomalous - log_normal, logits)
    log_normal.sum().backward()
    torch.testing.assert_close(logits.grad[1:], torch.tensor([-1.0, -1.0, -1.0]))  # still pulls back from far away


def test_dsvdd_score_is_one_half_at_tau_log_two():
    distances = squared_distances(torch.tensor([[1.0, 1.0], [3.0, 0.0]]), torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(distances, torch.tensor([2.0, 9.0]))
    log_anomalous, log_normal = dsvdd_log_probs(distances, torch.tensor(2.0 / math.log(2)))
    torch.testing.assert_close(log_normal[0], torch.tensor(math.log(0.5)))
    torch.testing.assert_close(log_anomalous[0], torch.tensor(math.log(0.5)))


def dsvdd_around_zero(z):
    return dsvdd_log_probs(z.square().sum(dim=1), torch.tensor(1.0))


@pytest.mark.parametrize("log_probs", [hsc_log_probs, dsvdd_around_zero])
def test_probabilities_add_up_to_one(log_probs):
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_anomalous, log_normal = log_probs(z)
    torch.testing.assert_close(log_anomalous.exp() + log_normal.exp(), torch.ones(64, dtype=torch.float64))
