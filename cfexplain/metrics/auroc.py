"""AuROC by the rank formula, of the detector on anomalies and on their counterfactuals (0.5 there: like normals)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from cfexplain.errors import CfexplainWarning, DataError, FitError
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs
from cfexplain.metrics.bootstrap import resample_counts, with_interval
from cfexplain.metrics.ranks import average_ranks


def auroc(normal_scores: np.ndarray, anomalous_scores: np.ndarray) -> float:
    """Chance that an anomaly scores above a normal image, ties counting half.

    Scores are any shape and scale, also infinite; logits rather than probabilities, which saturate.
    """
    normal, anomalous = np.ravel(normal_scores), np.ravel(anomalous_scores)
    _check(normal, anomalous)
    ranks = average_ranks(np.concatenate([normal, anomalous]))
    num_anomalous = len(anomalous)
    wins = ranks[len(normal) :].sum() - num_anomalous * (num_anomalous + 1) / 2  # Mann-Whitney U
    return float(wins / (len(normal) * num_anomalous))


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


@dataclass(frozen=True, kw_only=True)
class Auroc(IntervalMetricSpec):
    """detector_auroc, and cf_auroc over all concepts and of each; without test anomalies cf_auroc only."""

    meanings = {
        "detector_auroc": ("normal vs anomalous test images", "1"),
        "cf_auroc": ("normal test images vs counterfactuals", "0.5"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        normal = inputs.test_normal_logits.numpy()
        anomalous = inputs.explanations.source_logits.numpy()
        counterfactual = inputs.explanations.logits[:, 0].numpy()  # (N, K), alpha = 0
        values: dict[str, float | str] = {}
        if inputs.splits.has_test_anomalies:
            values |= auroc_with_interval("detector_auroc", normal, anomalous, inputs.seed, self.num_resamples)
        else:
            message = "detector_auroc left out: there are no test anomalies; cf_auroc is that of exposure images"
            warnings.warn(message, CfexplainWarning, stacklevel=2)
        values |= auroc_with_interval("cf_auroc", normal, counterfactual, inputs.seed, self.num_resamples)
        for concept in range(counterfactual.shape[1]):
            values[f"cf_auroc_concept_{concept}"] = auroc(normal, counterfactual[:, concept])
        return values


def _check(normal: np.ndarray, anomalous: np.ndarray) -> None:
    for name, scores in (("normal", normal), ("anomalous", anomalous)):
        if not len(scores):
            raise DataError(f"AuROC needs normal and anomalous images; there is no {name} one. Use a larger test set.")
        if np.isnan(scores).any():
            raise FitError(f"the detector scores {np.isnan(scores).sum()} {name} images as NaN. Fit it again.")
