"""Randomness that depends on seed, step and stream alone."""

import torch

from cfexplain.engine.seeding import derived_seed, step_generator


def draw(*args) -> torch.Tensor:
    return torch.rand(8, generator=step_generator(*args))


def test_the_same_step_draws_the_same_whatever_happened_before():
    first = draw(3, 7, "batch")
    torch.manual_seed(99), draw(3, 8, "batch")
    assert torch.equal(draw(3, 7, "batch"), first)


def test_seed_step_and_stream_each_matter():
    draws = [draw(3, 7, "batch"), draw(4, 7, "batch"), draw(3, 8, "batch"), draw(3, 7, "noise")]
    assert all(not torch.equal(draws[i], draws[j]) for i in range(4) for j in range(i))


def test_parts_do_not_run_together():
    assert derived_seed(1, 11) != derived_seed(11, 1)
    assert derived_seed(1, 23) != derived_seed(12, 3)
