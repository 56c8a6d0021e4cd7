"""AuROC by the rank formula, of the detector on anomalies and on their counterfactuals (0.5 there: like normals)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfexplain.detectors.base import logits_of
from cfexplain.errors import DataError, FitError
from cfexplain.lazy import stats
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import resample_counts, with_interval

UNLIKE_BELOW, UNLIKE_ABOVE = 0.4, 0.6


def auroc(normal_scores: np.ndarray, anomalous_scores: np.ndarray) -> float:
    """Chance that an anomaly scores above a normal image, ties counting half.

    Scores are any shape and scale, also infinite; logits rather than probabilities, which saturate.
    """
    normal, anomalous = np.ravel(normal_scores), np.ravel(anomalous_scores)
    for name, scores in (("normal", normal), ("anomalous", anomalous)):
        if not len(scores):
            raise DataError(f"AuROC needs normal and anomalous images; there is no {name} one. Use a larger test set.")
        if np.isnan(scores).any():
            raise FitError(f"the detector scores {np.isnan(scores).sum()} {name} images as NaN. Fit it again.")
    wins = stats.mannwhitneyu(anomalous.astype(float), normal.astype(float), method="asymptotic").statistic
    return float(wins / (len(normal) * len(anomalous)))


def auroc_with_interval(
    key: str, normal_scores: np.ndarray, anomalous_scores: np.ndarray, seed: int, num_resamples: int
) -> dict[str, float]:
    """AuROC under its key with a 95 % interval; normals and sources are resampled.

    normal_scores:    (M,).
    anomalous_scores: (N, ...), row i from source i.
    """
    value = auroc(normal_scores, anomalous_scores)
    ordered = np.sort(normal_scores)
    rows = anomalous_scores.reshape(len(anomalous_scores), -1)  # (N, K)
    below, upto = ordered.searchsorted(rows, "left"), ordered.searchsorted(rows, "right")
    rng = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for i in range(num_resamples):
        drawn = np.concatenate([[0], resample_counts(len(ordered), rng).cumsum()])  # normals drawn among the lowest j
        wins = (drawn[below] + drawn[upto]).mean(axis=1) / 2  # (N,)
        resampled[i] = resample_counts(len(rows), rng) @ wins / (len(ordered) * len(rows))
    return with_interval(key, value, resampled)


def detector_aurocs(
    held_out: np.ndarray, normal: np.ndarray, anomalous: np.ndarray | None, seed: int, num_resamples: int
) -> dict[str, float]:
    """detector_auroc, where there are test anomalies, and normals_auroc; scores (M,) of held-out and of test images.

    normals_auroc is 0.5 where normal test images look to the detector like normal ones that it never saw. If they do
    not (another light, another camera), all AuROC against normal test images measure that difference too.
    """
    found = {} if anomalous is None else auroc_with_interval("detector_auroc", normal, anomalous, seed, num_resamples)
    return found | auroc_with_interval("normals_auroc", held_out, normal, seed, num_resamples)


def unlike_normals(values: Mapping[str, Any]) -> str | None:
    """A note for the reader of such values, where all of the interval is far from 0.5."""
    if "normals_auroc" not in values:
        return None
    low, high = values["normals_auroc_low"], values["normals_auroc_high"]
    if low <= UNLIKE_ABOVE and high >= UNLIKE_BELOW:
        return None
    return (
        "to the detector normal test images are not like held-out normal ones "
        f"(normals_auroc {values['normals_auroc']:.3f}, 95 % {low:.3f}-{high:.3f}): "
        "detector_auroc and cf_auroc measure that difference too"
    )


@dataclass(frozen=True, kw_only=True)
class Auroc(IntervalMetricSpec):
    """detector_auroc, normals_auroc, and cf_auroc over all concepts and of each; the first needs test anomalies."""

    meanings = {
        "detector_auroc": ("normal vs anomalous test images", "1"),
        "normals_auroc": ("held-out vs test normal images: else the test set has a mark of its own", "0.5"),
        "cf_auroc": ("normal test images vs counterfactuals", "0.5"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        normal = inputs.test_normal_logits.numpy()
        held_out = logits_of(inputs.model.detector, inputs.splits.held_out.images, inputs.device).numpy()
        anomalous = inputs.explanations.source_logits.numpy() if inputs.splits.has_test_anomalies else None
        counterfactual = inputs.explanations.logits[:, 0].numpy()  # (N, K), alpha = 0
        values: dict[str, float | str] = {
            **detector_aurocs(held_out, normal, anomalous, inputs.seed, self.num_resamples)
        }
        if anomalous is None:
            tell_reader("detector_auroc left out: there are no test anomalies; cf_auroc is that of exposure images")
        if (note := unlike_normals(values)) is not None:
            tell_reader(note)
        values |= auroc_with_interval("cf_auroc", normal, counterfactual, inputs.seed, self.num_resamples)
        for concept in range(counterfactual.shape[1]):
            values[f"cf_auroc_concept_{concept}"] = auroc(normal, counterfactual[:, concept])
        return values
