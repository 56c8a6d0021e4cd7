"""A Gaussian of the features of normal patches (Defard et al., 2021); nothing is trained.

One Gaussian for all places, as parts may lie any way: feature maps of an encoder with given weights, brought to one
grid, are (N, H', W', F); each of the H' W' patches has a Mahalanobis distance. An image scores as its most distant do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cfexplain.checks import check_at_least, check_between, check_limits
from cfexplain.data.batches import to_float
from cfexplain.detectors.base import batched_on_cpu, build_detector, Detector, ScoringSpec
from cfexplain.detectors.fitting import calibrate, THRESHOLD_QUANTILE
from cfexplain.encoders.base import EncoderSpec
from cfexplain.encoders.pretrained import FeatureEncoderSpec, FeatureMaps
from cfexplain.errors import ConfigError
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape, Splits

MEDIAN_LOGIT = math.log(9)  # phi of the median normal is 0.1
MIN_SPREAD = 0.02  # of the normals' scores, as a share of the 95 % quantile: there may be one held-out image only
FIT_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Gaussian(ScoringSpec):
    """phi is 0.5 at held-out normals' 95 % quantile, 0.1 at their median.

    grid:          which of the encoder's layers, from 0, has the grid of patches that the others are brought to.
    neighbourhood: places of a map, a square of so many, odd, whose mean is a patch's feature (Roth et al., 2022).
    map_layers:    how many of the layers, the first ones, a score map of finer places is made of, by a Gaussian of its
                   own on the grid of the first; null: all, by the same Gaussian on the same grid as the score.
    top_share:     of the patches, the most distant ones, whose mean is the image's score s; at least one patch.
    shrinkage:     of the features' mean variance, added to each feature's own: without it the covariance of more
                   features than patches could not be inverted.
    """

    has_score_map = True

    grid: int
    neighbourhood: int
    map_layers: int | None
    top_share: float
    shrinkage: float

    def __post_init__(self) -> None:
        check_at_least(self, grid=0)
        check_limits(self, map_layers=1)
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood must be odd, got {self.neighbourhood}")
        check_between(self, 0, 1, "top_share")
        if self.shrinkage <= 0:
            raise ValueError(f"shrinkage must be > 0, got {self.shrinkage}")

    def build_network(self, encoder: EncoderSpec, image_shape: ImageShape) -> nn.Module:
        if not isinstance(encoder, FeatureEncoderSpec):
            raise ConfigError("detector=gaussian looks at the feature maps of a network with given weights: take "
                              "encoder=lite0 or encoder=timm")
        if self.grid >= len(encoder.layers):
            raise ConfigError(f"detector.grid={self.grid}, but encoder.layers has {len(encoder.layers)}, from 0")
        return PatchGaussian(encoder.build_features(image_shape), self)

    def calibrated_scale(self, outputs: Tensor, centre: Tensor) -> float:
        spread = centre.item() - outputs.double().median().item()
        return max(spread, MIN_SPREAD * centre.item()) / MEDIAN_LOGIT


class PatchGaussian(nn.Module):
    """mean: (F,) of all normal patches; whitening: (F, F), W with W^T W the inverse of their covariance.

    map_mean, map_whitening: of the score map's patches, where these are others.
    """

    mean: Tensor
    whitening: Tensor
    map_mean: Tensor
    map_whitening: Tensor

    def __init__(self, features: FeatureMaps, spec: Gaussian) -> None:
        super().__init__()
        self.features, self.spec = features.requires_grad_(False), spec
        size = sum(features.num_features)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.eye(size))
        if spec.map_layers is not None:
            map_size = sum(features.num_features[: spec.map_layers])
            self.register_buffer("map_mean", torch.zeros(map_size))
            self.register_buffer("map_whitening", torch.eye(map_size))

    def train(self, mode: bool = True) -> PatchGaussian:
        return super().train(False)  # the features of a batch norm in training mode are other features

    def patches(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, H', W', F): larger maps averaged, smaller ones interpolated."""
        return self._patches(self.features(images), self.spec.grid)

    def map_patches(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, H', W', F) of the score map, where these are others."""
        return self._patches(self.features(images)[: self.spec.map_layers], 0)

    def _patches(self, maps: list[Tensor], grid: int) -> Tensor:
        size, side = maps[grid].shape[2:], self.spec.neighbourhood
        maps = [F.avg_pool2d(part, side, 1, side // 2, count_include_pad=False) for part in maps]
        return torch.cat([_on_grid(part, size) for part in maps], dim=1).movedim(1, 3)

    def distances(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, H', W') Mahalanobis distances by sqrt(F): about 1 of a normal patch."""
        return mahalanobis(self.patches(images), self.mean, self.whitening)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, 1): the mean distance of the most distant patches."""
        distances = self.distances(images).flatten(1)
        count = max(1, round(self.spec.top_share * distances.shape[1]))
        return distances.topk(count, dim=1).values.mean(dim=1, keepdim=True)

    def score_map(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, H, W), the distances at the images' size."""
        if self.spec.map_layers is None:
            distances = self.distances(images)
        else:
            distances = mahalanobis(self.map_patches(images), self.map_mean, self.map_whitening)
        return F.interpolate(distances[:, None], images.shape[2:], mode="bilinear")[:, 0]


def mahalanobis(patches: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """(N, H', W', F) -> (N, H', W'), divided by sqrt(F)."""
    with torch.autocast(patches.device.type, enabled=False):  # distances are differences of what nearly agrees
        offsets = (patches.float() - mean) @ whitening.T
    return offsets.square().mean(dim=3).clamp_min(1e-12).sqrt()  # clamp: a root has no slope at 0


def fit_gaussian(
    spec: Gaussian, encoder: EncoderSpec, splits: Splits, seed: int, device: torch.device
) -> tuple[Detector, str]:
    """Mean and covariance from splits.train, calibrated on splits.held_out, frozen; and what was done in one line."""
    detector = build_detector(spec, encoder, splits.image_shape, seed).to(device).eval().requires_grad_(False)
    network = detector.encoder
    batches = splits.train.images_for(device).split(FIT_BATCH)

    def fitted(patches: Callable[[Tensor], Tensor]) -> tuple[int, Tensor, Tensor]:
        count, mean, covariance = moments(patches(to_float(batch.to(device))) for batch in batches)
        return count, mean, whitening(covariance, spec.shrinkage)

    count, mean, factor = fitted(network.patches)
    network.mean.copy_(mean), network.whitening.copy_(factor)
    if spec.map_layers is not None:
        _, map_mean, map_factor = fitted(network.map_patches)
        network.map_mean.copy_(map_mean), network.map_whitening.copy_(map_factor)
    scores = batched_on_cpu(detector.embed, splits.held_out.images, device)[:, 0]
    detector.centre.fill_(scores.quantile(THRESHOLD_QUANTILE).item())
    calibrate(detector, splits.held_out, device)
    return detector, (
        f"Gaussian of {len(mean)} features of {count:,} patches in {len(splits.train)} images, nothing to train: "
        f"distance {scores.median():.3g} of the median held-out normal, threshold at {detector.centre.item():.3g}"
    )


def _on_grid(features: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, F, H, W) -> (N, F, *size), averaged over squares or interpolated."""
    factor = max(1, round(features.shape[2] / size[0]))
    features = F.avg_pool2d(features, factor, ceil_mode=True)  # the last squares may be smaller
    return features if features.shape[2:] == size else F.interpolate(features, size, mode="bilinear")


@no_grad
def moments(batches: Iterator[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Batches (N, H', W', F) of patches -> their number, mean (F,), covariance (F, F), summed up in float64.

    Sums are taken about the mean of the first batch, so that no digits are lost where features lie far from 0.
    """
    count, shift, total, products = 0, None, 0.0, 0.0
    for batch in batches:
        patches = batch.flatten(0, 2).double()
        shift = patches.mean(dim=0) if shift is None else shift
        patches = patches - shift
        count += len(patches)
        total, products = total + patches.sum(dim=0), products + patches.T @ patches
    mean = total / count
    return count, mean + shift, products / count - mean.outer(mean)


def whitening(covariance: Tensor, shrinkage: float) -> Tensor:
    """(F, F) float64 -> W with W^T W = (covariance + shrinkage * mean variance * 1)^-1."""
    variance = covariance.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky(covariance + shrinkage * variance * identity)
    return torch.linalg.solve_triangular(factor, identity, upper=False)
