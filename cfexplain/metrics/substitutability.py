"""Can counterfactuals stand in for normal images? A detector is fitted to them and tested on the real test set.

No real normal image takes part in that fit. The exposure set is cut in two: one half becomes counterfactuals, the other
stays as outliers, so that no outlier is the source of a "normal".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cfexplain.checks import check_at_least
from cfexplain.detectors.base import logits_of
from cfexplain.errors import FitError
from cfexplain.lazy import torch
from cfexplain.metrics.auroc import auroc, auroc_with_interval
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.types import Explanations, ImageSet, NORMAL, Splits


def substitutability_ratio(substituted_auroc: float, detector_auroc: float) -> float:
    """What is left of the detector's advantage over chance."""
    return (substituted_auroc - 0.5) / (detector_auroc - 0.5)


def substituted_splits(
    splits: Splits, explain: Callable[[ImageSet], Explanations], num_sources: int, seed: int
) -> Splits:
    """The splits with counterfactuals of exposure images as train and held_out, and the rest of exposure as outliers.

    At most `num_sources`, and half, of the exposure images become counterfactuals, K each. A source held out is not
    trained on.
    """
    assert splits.exposure is not None and len(splits.exposure) >= 4
    num_sources = min(num_sources, len(splits.exposure) // 2)
    order = torch.randperm(len(splits.exposure), generator=torch.Generator().manual_seed(seed))
    explanations = explain(splits.exposure.select(order[:num_sources]))
    share = len(splits.held_out) / (len(splits.held_out) + len(splits.train))
    num_held_out = min(max(1, round(share * num_sources)), num_sources - 1)
    return replace(
        splits,
        train=_as_normals(explanations, slice(num_held_out, None)),
        held_out=_as_normals(explanations, slice(num_held_out)),
        exposure=splits.exposure.select(order[len(order) // 2 :]),
        fresh=None,  # they would be made of the counterfactuals
    )


@dataclass(frozen=True, kw_only=True)
class Substitutability(IntervalMetricSpec):
    meanings = {
        "substitutability_auroc": ("detector trained on counterfactuals as normals", "detector_auroc"),
        "substitutability_ratio": ("the same as a share of the detector's gain over chance", "1"),
    }

    num_sources: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, num_sources=2)

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        splits, own_spec = inputs.splits, inputs.model.detector.spec
        if not own_spec.is_trained:
            return _left_out(f"detector={own_spec.name} cannot be trained again, on counterfactuals either")
        if not splits.has_test_anomalies:
            return _left_out("there are no test anomalies")
        if splits.exposure is None or len(splits.exposure) < 4:
            return _left_out("there are no exposure images to make counterfactuals of")
        try:
            detector = inputs.fit_detector(
                substituted_splits(splits, inputs.explain, self.num_sources, inputs.seed), inputs.seed
            )
        except FitError as error:
            return _left_out(f"no detector could be fitted to counterfactuals ({error})")
        normal = logits_of(detector, splits.test_normals.images, inputs.device).numpy()
        anomalous = logits_of(detector, splits.test_anomalies.images, inputs.device).numpy()
        values = auroc_with_interval("substitutability_auroc", normal, anomalous, inputs.seed, self.num_resamples)

        original = auroc(inputs.test_normal_logits.numpy(), inputs.explanations.source_logits.numpy())
        if original <= 0.5:
            return values | _left_out("the detector itself is no better than chance", "substitutability_ratio")
        return values | {"substitutability_ratio": substitutability_ratio(values["substitutability_auroc"], original)}


def _as_normals(explanations: Explanations, sources: slice) -> ImageSet:
    images = explanations.counterfactuals[sources]  # (M, K, C, H, W)
    num_concepts = explanations.num_concepts
    return ImageSet(
        images=images.flatten(0, 1),
        labels=explanations.sources.labels.new_full((len(images) * num_concepts,), NORMAL),
        classes=explanations.sources.classes.new_full((len(images) * num_concepts,), -1),
        ids=tuple(f"{id}/concept-{k}" for id in explanations.sources.ids[sources] for k in range(num_concepts)),
    )


def _left_out(reason: str, what: str = "substitutability") -> dict[str, float | str]:
    tell_reader(f"{what} left out: {reason}")
    return {}
