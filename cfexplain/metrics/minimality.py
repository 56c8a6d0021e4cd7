"""Is the counterfactual nearer to its anomaly than real normal images are?

A real normal image is valid and realistic, yet no explanation: it is another thing. A counterfactual that is farther
than many of them is as much of one; to be near is no merit by itself, as who does nothing is nearest. Distances are
those of pixels, as in l1_distance: in features an edit would be near for what a network does not see. The normal images
are those of the training, of which a generator may make its copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.checks import check_positive
from cfexplain.lazy import no_grad, Tensor, torch
from cfexplain.metrics.base import drawn, IntervalMetricSpec, MetricInputs
from cfexplain.metrics.bootstrap import shares_of_concepts

CHUNK_VALUES = 1 << 24  # pixels and channels of the normal images at a time


@no_grad
def farther_counts(sources: Tensor, edited: Tensor, normals: Tensor, device: torch.device | str) -> Tensor:
    """(N, K) int64: how many normal images are farther from the source than its edit is, in L1 of the pixels.

    sources: (N, C, H, W) uint8; edited: (N, K, C, H, W) uint8; normals: (T, C, H, W) uint8, may be mapped.
    """
    queries = sources.to(device).flatten(1).float()  # (N, D)
    own = torch.cat([
        torch.cdist(query[None], images.to(device).flatten(1).float(), p=1)
        for query, images in zip(queries, edited, strict=True)
    ])  # (N, K)
    counts = torch.zeros(own.shape, dtype=torch.long, device=device)
    for chunk in normals.split(max(1, CHUNK_VALUES // queries.shape[1])):
        distances = torch.cdist(queries, chunk.to(device).flatten(1).float(), p=1)  # (N, T')
        counts += (distances[:, None] > own[:, :, None]).sum(dim=2)
    return counts.cpu()


@dataclass(frozen=True, kw_only=True)
class Minimality(IntervalMetricSpec):
    """minimality and nearer_than_normals.

    num_images:  explained ones, at most.
    num_normals: normal training images, about, in equal steps from the first to the last.
    """

    meanings = {
        "minimality": ("share of normal training images farther from the anomaly than its counterfactual", "-"),
        "nearer_than_normals": ("share of counterfactuals nearer to it than each of those images", "-"),
    }

    num_images: int
    num_normals: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_images", "num_normals")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        explanations, normals = drawn(inputs.explanations, self.num_images, inputs.seed), inputs.splits.train.images
        normals = normals[:: math.ceil(len(normals) / self.num_normals)]  # a view: mapped images stay in their file
        counts = farther_counts(explanations.sources.images, explanations.counterfactuals, normals, inputs.device)
        shares, is_nearest = counts.numpy() / len(normals), (counts == len(normals)).numpy()
        return {
            **shares_of_concepts("minimality", shares, inputs.seed, self.num_resamples),
            **shares_of_concepts("nearer_than_normals", is_nearest, inputs.seed, self.num_resamples),
        }
