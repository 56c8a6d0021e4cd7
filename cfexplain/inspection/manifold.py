"""Is an image where normal images are? Its distance to normal training images in a feature space.

The distance is that to the third-nearest one (kNN out-of-distribution detection, Sun et al., 2022; 3 neighbours as in
Kynkaanniemi et al., 2019): a single odd training image does not make its surroundings normal.
"""

from __future__ import annotations

from cfexplain.lazy import Tensor, torch
from cfexplain.types import ImageSet

NUM_NEIGHBOURS = 3


def feature_distances(features: Tensor, neighbour_features: Tensor) -> Tensor:
    """(N, D), (T, D) -> (N, T) Euclidean; exactly 0 for equal features, which the faster product form is not."""
    return torch.cdist(features, neighbour_features, compute_mode="donot_use_mm_for_euclid_dist")


def manifold_distances(features: Tensor, neighbour_features: Tensor) -> Tensor:
    """(N, D), (T, D) -> (N,) distances to the third-nearest neighbour; to the farthest where there are fewer."""
    place = min(NUM_NEIGHBOURS, len(neighbour_features))
    return feature_distances(features, neighbour_features).kthvalue(place, dim=1).values


def nearest_rows(images: Tensor, features: Tensor, neighbours: ImageSet, neighbour_features: Tensor) -> Tensor:
    """(N,) int64: for each image the neighbour nearest in feature space; among equals the one nearest in pixels (L1).

    images: (N, C, H, W) uint8; features: (N, D) of them.
    """
    distances = feature_distances(features, neighbour_features)
    rows = distances.argmin(dim=1)
    is_nearest = distances <= distances.amin(dim=1, keepdim=True)
    for index in (is_nearest.sum(dim=1) > 1).nonzero().flatten().tolist():
        candidates = is_nearest[index].nonzero().flatten()
        changes = (neighbours.images[candidates].short() - images[index].short()).abs().flatten(1).sum(dim=1)
        rows[index] = candidates[changes.argmin()]
    return rows
