"""Distances to the third-nearest normal image, and which image is the nearest."""

import pytest
import torch

from cfexplain.inspection.manifold import manifold_distances, nearest_rows
from tests.inspection.formulas import image_set


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
