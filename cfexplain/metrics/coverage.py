"""Do counterfactuals lie where normal test images do, and all over there? And are they copies of training images?

Density and coverage (Naeem et al., 2020) are counted by balls around normal test images, each of which just reaches the
k-th nearest of the others: density is how many of them a counterfactual lies in, over k; coverage the share of them
that hold one. A copy is nearer to a training image than normal images are that were never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.checks import check_positive
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.base import drawn, drawn_rows, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval, shares_of_concepts
from cfexplain.metrics.classifiers import ClassifierMetricSpec, feature_distances, feature_space, RANDOM

PART = 256  # images whose distances to all training images are taken at a time


def balls_entered(normals: Tensor, features: Tensor, num_neighbours: int) -> Tensor:
    """(N, K, M) bool: does each of (N, K, D) features lie in the ball around each of (M, D) normals?

    num_neighbours: below M. As in the authors' own code, what lies on the surface of a ball is outside.
    """
    radii = feature_distances(normals, normals).kthvalue(num_neighbours + 1, dim=1).values  # the first is itself
    return (feature_distances(features.flatten(0, 1), normals) < radii).unflatten(0, features.shape[:2])


def nearest_distances(features: Tensor, neighbours: Tensor) -> Tensor:
    """(..., D), (T, D) -> (...)."""
    parts = features.reshape(-1, features.shape[-1]).split(PART)
    return torch.cat([feature_distances(part, neighbours).amin(dim=1) for part in parts]).reshape(features.shape[:-1])


@dataclass(frozen=True, kw_only=True)
class Coverage(ClassifierMetricSpec):
    """density, coverage, each _before and of _normals; training_distance.

    num_neighbours: k.
    num_images:     of a side, at most: coverage compares only among as many.
    """

    meanings = {
        "density": ("how much counterfactuals lie among normal test images, in a feature space", "density_normals"),
        "density_before": ("the same of the images before the change", "-"),
        "density_normals": ("the same of normal training images", "-"),
        "coverage": ("share of normal test images that have a counterfactual about them", "coverage_normals"),
        "coverage_before": ("the same of the images before the change", "-"),
        "coverage_normals": ("the same of normal training images", "-"),
        "training_distance": ("distance to the nearest training image; 1: as held-out normal ones, 0: copies", "1"),
    }

    num_neighbours: int
    num_images: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_neighbours", "num_images")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        splits = inputs.splits
        normals, train = splits.test_normals.images, splits.train.images
        count = min(self.num_images, len(normals), len(inputs.explanations.sources), len(train))
        explanations = drawn(inputs.explanations, count, inputs.seed)
        space = feature_space(splits, self.recipe(), inputs.cache_dir, inputs.device)
        if space.name == RANDOM:
            tell_reader("coverage on features of a random network: the training images are of one class")
        edited, trained = space(explanations.counterfactuals), space(train)  # (N, K, D), (T, D)
        values: dict[str, float | str] = {}
        if count > self.num_neighbours:
            around = space(normals[drawn_rows(len(normals), count, inputs.seed)])  # (N, D)
            before, real = space(explanations.sources.images), trained[drawn_rows(len(train), count, inputs.seed)]
            values |= self._among(around, edited, {"before": before, "normals": real}, inputs.seed)
        else:
            tell_reader(f"density and coverage left out: {self.num_neighbours} neighbours take more images a side")
        usual = nearest_distances(space(splits.held_out.images), trained).double().mean().item()
        if usual == 0:
            tell_reader("training_distance left out: each held-out normal image is a training image too")
            return values
        distances = nearest_distances(edited, trained).double().numpy() / usual
        return values | shares_of_concepts("training_distance", distances, inputs.seed, self.num_resamples)

    def _among(self, around: Tensor, edited: Tensor, others: dict[str, Tensor], seed: int) -> dict[str, float]:
        """Among (N, D) features of normal test images; of (N, K, D) counterfactuals and others, (N, D) each."""
        entered = balls_entered(around, edited, self.num_neighbours)  # (N, K, N)
        sources = torch.arange(len(edited))
        covered = entered[sources, sources % edited.shape[1]].any(dim=0)  # concepts in turn, so that images are as many
        values = shares_of_concepts(
            "density", entered.sum(dim=2).numpy() / self.num_neighbours, seed, self.num_resamples
        )
        values |= share_with_interval("coverage", covered.numpy(), seed, self.num_resamples)
        values |= {f"coverage_concept_{k}": float(part.any(dim=0).double().mean())
                   for k, part in enumerate(entered.unbind(dim=1))}
        for name, features in others.items():
            entered = balls_entered(around, features[:, None], self.num_neighbours)[:, 0]  # (N, N)
            values[f"density_{name}"] = float(entered.sum(dim=1).double().mean() / self.num_neighbours)
            values[f"coverage_{name}"] = float(entered.any(dim=0).double().mean())
        return values
