"""Integrated gradients: exact on a linear score, complete on any, 0 where nothing differs."""

import torch
from torch import nn

from cfexplain.detectors.base import logits_of
from cfexplain.inspection.saliency import heatmaps, integrated_gradients
from tests.inspection.formulas import CPU, FormulaDetector


def random_images(count, seed):
    return torch.randint(256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_linear_score_by_hand():
    weights = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    images, baselines = random_images(2, 1), random_images(2, 2)
    found = integrated_gradients(
        FormulaDetector(lambda batch: (batch * weights).sum(dim=(1, 2, 3))), images, baselines, CPU
    )
    torch.testing.assert_close(found, weights * (images.float() - baselines.float()) / 127.5)


def test_the_parts_add_up_to_the_difference_of_scores():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(288, 1)
        ).requires_grad_(False)
    detector = FormulaDetector(lambda batch: 20 * network(batch)[:, 0])
    images, baselines = random_images(5, 1), random_images(5, 2)
    total = integrated_gradients(detector, images, baselines, CPU).sum(dim=(1, 2, 3))
    expected = logits_of(detector, images) - logits_of(detector, baselines)
    assert expected.abs().max() > 1
    # the midpoint rule's error falls with the square of the step, 1 / 32
    torch.testing.assert_close(total, expected, rtol=0, atol=0.01 * expected.abs().max().item())


def test_maps_are_scaled_by_their_largest_value_and_point_to_the_pixel():
    detector = FormulaDetector(lambda batch: (batch[:, 1, 3, 5] + 1) ** 2 - 0.5 * batch[:, 0, 9, 9])
    baselines = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images = baselines.clone()
    images[0, 1, 3, 5], images[0, 0, 9, 9] = 255, 51
    maps = heatmaps(detector, images, baselines, CPU)
    assert maps[0, 3, 5] == 1.0
    torch.testing.assert_close(maps[0, 9, 9], torch.tensor(-0.5 * 51 / 127.5 / 4), atol=1e-3, rtol=0)
    assert (maps[0] != 0).sum() == 2
    assert (maps[1] == 0).all()  # equal to its baseline: nothing to attribute, and no 0 / 0
