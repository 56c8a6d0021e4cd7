"""Detector formulas: values by hand and numerical edges."""

import math

import pytest
import torch

from cfexplain.detectors.bce import Bce
from cfexplain.detectors.dsvdd import Dsvdd, squared_distances
from cfexplain.detectors.hsc import Hsc

VALUES = dict(embedding_dim=4, steps=1, batch_size=1, learning_rate=1.0, weight_decay=0.0)
BCE, HSC, DSVDD = Bce(**VALUES), Hsc(**VALUES), Dsvdd(**VALUES)
ORIGIN, ONE = torch.zeros(1), torch.tensor(1.0)


def hsc_losses(embeddings, labels):
    return HSC.losses(embeddings, labels, ORIGIN)


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
    torch.testing.assert_close(BCE.losses(logits[:, None], labels, ORIGIN), expected)


def test_bce_logit_survives_where_the_score_rounds_to_one():
    logits = torch.tensor([-200.0, 50.0, 60.0, 1000.0], requires_grad=True)
    probs = BCE.log_probs(logits[:, None], ORIGIN, ONE)
    torch.testing.assert_close(probs.log_anomalous - probs.log_normal, logits)
    probs.log_normal.sum().backward()
    torch.testing.assert_close(logits.grad[1:], torch.tensor([-1.0, -1.0, -1.0]))  # still pulls back from far away


def test_bce_log_probs_and_their_gradient_are_exact_from_end_to_end():
    logits = torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0], requires_grad=True)
    probs = BCE.log_probs(logits[:, None], ORIGIN, ONE)
    values = logits.tolist()
    for value, log_anomalous, log_normal in zip(values, probs.log_anomalous.tolist(), probs.log_normal.tolist()):
        # float32 has 1e-7; what is left at 100, -3.7e-44, is below its normal numbers and may be flushed to 0
        assert log_anomalous == pytest.approx(min(value, 0) - math.log1p(math.exp(-abs(value))), rel=2e-7, abs=1e-43)
        assert log_normal == pytest.approx(min(-value, 0) - math.log1p(math.exp(-abs(value))), rel=2e-7, abs=1e-43)
    probs.log_anomalous.sum().backward()  # d log phi / dl = 1 - phi, one half in the middle
    assert logits.grad.tolist() == pytest.approx([1 / (1 + math.exp(value)) for value in values], rel=4e-7, abs=1e-43)


def test_dsvdd_score_is_one_half_at_tau_log_two():
    distances = squared_distances(torch.tensor([[1.0, 1.0], [3.0, 0.0]]), torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(distances, torch.tensor([2.0, 9.0]))
    tau = torch.tensor(2.0 / math.log(2))
    probs = DSVDD.log_probs(torch.tensor([[1.0, 1.0]]), torch.zeros(2), tau)
    torch.testing.assert_close(probs.log_normal[0], torch.tensor(math.log(0.5)))
    torch.testing.assert_close(probs.log_anomalous[0], torch.tensor(math.log(0.5)))


@pytest.mark.parametrize("spec", [HSC, DSVDD])
def test_probabilities_add_up_to_one(spec):
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = spec.log_probs(z, torch.zeros(4, dtype=torch.float64), ONE.double())
    torch.testing.assert_close(probs.log_anomalous.exp() + probs.log_normal.exp(), torch.ones(64, dtype=torch.float64))
