"""What counterfactuals are held against, measured once on normal images: thresholds, and where normal images lie.

An image lies where normal images do if its third-nearest normal training image in a feature space is near (kNN
out-of-distribution detection, Sun et al., 2022; 3 neighbours as in Kynkaanniemi et al., 2019): a single odd training
image does not make its surroundings normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.detectors.base import Detector, logits_of
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.survival import altered_logits, Alterations
from cfexplain.metrics.classifiers import feature_distances, FeatureSpace
from cfexplain.types import ImageSet, Splits

MAX_NEIGHBOURS = 2000
NUM_NEIGHBOURS = 3
DISTANCE_QUANTILE = 0.99
SECOND_DETECTOR = "second_detector"
REFIT, NONE = "refit", "none"  # which one: trained for it, none at all, or that of another run


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What counterfactuals are held against: held-out normal images, a feature space, a second detector.

    normal_logits:     (M,) float32, sorted: the detector's logits of the held-out normals.
    false_alarm_rate:  share of normal images that may lie above the threshold.
    threshold:         the logit at or below which an image counts as normal, from normal_logits and the rate.
    alterations:       that a counterfactual should survive; their names are Alterations.functions' keys.
    alteration_thresholds: one for each: the logit that the same share of the held-out normals exceed after it, and
                       never below `threshold`. What an alteration does to real normal images is no fault of an
                       explanation's.
    normal_survival:   share of the held-out normals at or below the threshold that survive everything, second detector
                       included; nan where none is at or below it.
    neighbours:        normal training images among which the nearest one is looked for.
    features:          the space in which distances to normal images are taken, and its name.
    neighbour_features: (T, D) float32 of the neighbours.
    distance_limit:    of the held-out normals' distances to their nearest neighbours the 99 % quantile.
    second_detector:   one that the generator never saw, or None; with its own threshold at the same false-alarm rate.
    """

    normal_logits: Tensor
    false_alarm_rate: float
    threshold: float
    alterations: Alterations
    alteration_thresholds: tuple[float, ...]
    normal_survival: float
    neighbours: ImageSet
    features: FeatureSpace
    neighbour_features: Tensor
    distance_limit: float
    second_detector: Detector | None
    second_threshold: float

    @property
    def alteration_names(self) -> tuple[str, ...]:
        """What a counterfactual should survive, the second detector last if there is one."""
        names = tuple(self.alterations.functions)
        return names if self.second_detector is None else (*names, SECOND_DETECTOR)


def build_reference(
    detector: Detector,
    splits: Splits,
    features: FeatureSpace,
    second_detector: Detector | None,
    false_alarm_rate: float,
    device: torch.device | str,
    alterations: Alterations,
) -> Reference:
    """Thresholds and distances from splits.held_out, neighbours from splits.train.

    false_alarm_rate: in (0, 1). The detector's own threshold stands for 0.05.
    """
    assert 0 < false_alarm_rate < 1, false_alarm_rate
    normals = splits.held_out.images
    logits = logits_of(detector, normals, device)
    threshold = threshold_at(logits, false_alarm_rate)
    altered = altered_logits(detector, normals, alterations, device)  # (M', number of alterations)
    thresholds = tuple(max(threshold, threshold_at(part, false_alarm_rate)) for part in altered.T)
    survives, second_threshold = (altered <= torch.tensor(thresholds)).all(dim=1), math.nan
    if second_detector is not None:
        second_logits = logits_of(second_detector, normals, device)
        second_threshold = threshold_at(second_logits, false_alarm_rate)
        survives &= second_logits <= second_threshold
    neighbours = every_nth(splits.train, MAX_NEIGHBOURS)
    neighbour_features = features(neighbours.images)
    distances = manifold_distances(features(normals), neighbour_features)
    return Reference(
        normal_logits=logits.sort().values,
        false_alarm_rate=false_alarm_rate,
        threshold=threshold,
        alterations=alterations,
        alteration_thresholds=thresholds,
        normal_survival=survives[logits <= threshold].double().mean().item(),
        neighbours=neighbours,
        features=features,
        neighbour_features=neighbour_features,
        distance_limit=max(distances.double().quantile(DISTANCE_QUANTILE).item(), torch.finfo(torch.float32).tiny),
        second_detector=second_detector,
        second_threshold=second_threshold,
    )


def threshold_at(logits: Tensor, false_alarm_rate: float) -> float:
    """The logit that this share of normal images exceed, with the detector's own quantile and its float32."""
    quantile = logits.double().quantile(1 - false_alarm_rate)
    return quantile.float().item()


def every_nth(images: ImageSet, limit: int) -> ImageSet:
    """At most `limit` images in equal steps from the first to the last: a view, mapped images stay in their file."""
    return images[:: math.ceil(len(images) / limit)]


def manifold_distances(features: Tensor, neighbour_features: Tensor) -> Tensor:
    """(N, D), (T, D) -> (N,) distances to the third-nearest neighbour; to the farthest where there are fewer."""
    rank = min(NUM_NEIGHBOURS, len(neighbour_features))
    return feature_distances(features, neighbour_features).kthvalue(rank, dim=1).values


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
