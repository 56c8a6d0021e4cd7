"""AuROC against scikit-learn and brute force; its interval against a plain bootstrap."""

import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cfexplain.detectors.base import logits_of
from cfexplain.errors import CfexplainWarning, DataError, FitError
from cfexplain.metrics.auroc import Auroc, auroc, auroc_with_interval, unlike_normals


def scores(seed, ties):
    rng = np.random.default_rng(seed)
    normal, anomalous = rng.normal(size=70), rng.normal(0.5, size=40)
    return (normal.round(), anomalous.round()) if ties else (normal, anomalous)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn_and_brute_force(seed, ties):
    normal, anomalous = scores(seed, ties)
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    expected = roc_auc_score(labels, np.concatenate([normal, anomalous]))
    brute = np.mean([(a > n) + 0.5 * (a == n) for a in anomalous for n in normal])
    assert auroc(normal, anomalous) == pytest.approx(expected, abs=1e-12)
    assert auroc(normal, anomalous) == pytest.approx(brute, abs=1e-12)


def test_by_hand():
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 3.5 / 4
    assert auroc(np.array([-np.inf, 0.0]), np.array([np.inf])) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed):
    normal, anomalous = scores(seed, ties=True)
    value = auroc(normal, anomalous)
    assert auroc(np.exp(normal), np.exp(anomalous)) == pytest.approx(value, abs=1e-12)
    assert auroc(-normal, -anomalous) + value == pytest.approx(1.0, abs=1e-12)
    assert auroc(anomalous, normal) + value == pytest.approx(1.0, abs=1e-12)


def test_large_float32_scores_do_not_saturate():
    normal = np.array([1000.0, 1001.0], dtype=np.float32)
    assert auroc(normal, normal + 0.5) == 0.75


def test_missing_class_and_nan_are_errors():
    some = np.arange(3.0)
    with pytest.raises(DataError, match="no anomalous"):
        auroc(some, some[:0])
    with pytest.raises(DataError, match="no normal"):
        auroc(some[:0], some)
    with pytest.raises(FitError, match="NaN"):
        auroc(some, np.array([0.0, np.nan]))


def test_interval_equals_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(size=80).round(1), rng.normal(0.4, size=(50, 3)).round(1)
    values = auroc_with_interval("a", normal, anomalous, seed=1, num_resamples=4000)
    plain = [
        auroc(rng.choice(normal, size=80), anomalous[rng.integers(50, size=50)].ravel()) for _ in range(4000)
    ]  # fmt: skip
    low, high = np.quantile(plain, [0.025, 0.975])
    # a quantile of 4000 draws from a spread of 0.04 is uncertain by about 0.002
    assert values["a_low"] == pytest.approx(low, abs=0.008)
    assert values["a_high"] == pytest.approx(high, abs=0.008)
    assert values["a"] == pytest.approx(auroc(normal, anomalous))


def test_interval_resamples_whole_sources():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(size=500), rng.normal(size=(60, 1))
    once = auroc_with_interval("a", normal, anomalous, seed=0, num_resamples=300)
    copied = auroc_with_interval("a", normal, np.repeat(anomalous, 20, axis=1), seed=0, num_resamples=300)
    assert copied == pytest.approx(once)


def test_ten_thousand_images_take_seconds():
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    auroc_with_interval("a", rng.normal(size=10_000), rng.normal(size=(10_000, 2)), seed=0, num_resamples=1000)
    assert time.perf_counter() - started < 20  # 1 to 2 s on an idle core


def test_planted_run(planted):
    values = Auroc(num_resamples=100).compute(planted)
    logits = planted.explanations.logits[:, 0]
    labels = np.repeat([0, 1], [len(planted.test_normal_logits), logits.numel()])
    expected = roc_auc_score(labels, np.concatenate([planted.test_normal_logits, logits.ravel()]))
    assert values["cf_auroc"] == pytest.approx(expected)
    assert values["detector_auroc"] > 0.9
    assert values["cf_auroc"] < values["detector_auroc"] - 0.2
    assert values["cf_auroc"] == pytest.approx(
        (values["cf_auroc_concept_0"] + values["cf_auroc_concept_1"]) / 2
    )  # fmt: skip
    assert 0.35 < values["normals_auroc"] < 0.65
    assert set(values) == {
        f"{key}{end}" for key in ("detector_auroc", "normals_auroc", "cf_auroc") for end in ("", "_low", "_high")
    } | {"cf_auroc_concept_0", "cf_auroc_concept_1"}  # fmt: skip


def test_a_test_set_with_a_mark_of_its_own_is_said(planted):
    """Normal test images that look like anomalies: the detector does not know them for normal."""
    metric = Auroc(num_resamples=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CfexplainWarning)
        metric.compute(planted)
    strange = logits_of(planted.model.detector, planted.splits.test_anomalies.images, planted.device)
    with pytest.warns(CfexplainWarning, match="not like held-out normal ones .* measure that difference too"):
        values = metric.compute(replace(planted, test_normal_logits=strange))
    assert values["normals_auroc"] > 0.9


@pytest.mark.parametrize(("low", "high", "is_said"), [
    (0.61, 0.99, True), (0.59, 0.99, False), (0.1, 0.39, True), (0.1, 0.41, False), (0.2, 0.8, False),
])
def test_the_note_needs_all_of_the_interval(low, high, is_said):
    values = {"normals_auroc": (low + high) / 2, "normals_auroc_low": low, "normals_auroc_high": high}
    assert (unlike_normals(values) is not None) == is_said


def test_a_run_from_before_the_number_has_no_note():
    assert unlike_normals({"detector_auroc": 0.9}) is None
