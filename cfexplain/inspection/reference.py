"""What explanations are judged against, measured once on normal images."""

from __future__ import annotations

import math
from dataclasses import replace

from cfexplain.detectors.base import Detector, logits_of
from cfexplain.inspection.base import Reference
from cfexplain.inspection.manifold import manifold_distances
from cfexplain.inspection.robustness import altered_logits
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.alterations import Alterations
from cfexplain.metrics.features import FeatureSpace
from cfexplain.types import ImageSet, Splits

MAX_NEIGHBOURS = 2000
DISTANCE_QUANTILE = 0.99


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
    step = math.ceil(len(images) / limit)
    masks = None if images.masks is None else images.masks[::step]
    return replace(
        images, images=images.images[::step], labels=images.labels[::step], classes=images.classes[::step],
        ids=images.ids[::step], masks=masks,
    )
