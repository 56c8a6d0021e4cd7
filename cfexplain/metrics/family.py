"""Do the counterfactuals convince a judge of another kind: a Gaussian of features that were never trained for this?

A second detector of the same kind may share the blind spots of the first, as both learnt from the same images what to
look at. This one sees by a network with given weights, and knows normal training images alone (Defard et al., 2021).
It can be blind to what makes these anomalies anomalous: family_auroc and family_validity_before tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cfexplain.checks import check_positive
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.detectors.gaussian import fit_gaussian, Gaussian
from cfexplain.encoders.pretrained import FeatureEncoderSpec
from cfexplain.errors import DataError
from cfexplain.metrics.auroc import auroc
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import shares_of_concepts

TRUSTWORTHY = 0.8
PACKAGED = "default"  # weights of a package, which need not be there


@dataclass(frozen=True, kw_only=True)
class Family(IntervalMetricSpec):
    """family_* keys; nothing where the run's own detector is of this family, or the given weights are not there.

    num_normals: normal training images that the Gaussian is made of, about, in equal steps from the first to the last.
    detector:    its threshold lies, as the run's own, at the 95 % quantile of held-out normal images.
    """

    meanings = {
        "family_validity": ("share normal to a Gaussian of features with given weights", "family_validity_normals"),
        "family_validity_normals": ("the same of real normal test images: what can be expected at best", "-"),
        "family_validity_before": ("the same of the images before the change", "-"),
        "family_auroc": ("how well that judge tells anomalies from normal test images", "1"),
    }

    num_normals: int
    detector: Gaussian
    encoder: FeatureEncoderSpec

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_normals")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        own = inputs.model.detector
        if isinstance(own.spec, Gaussian):
            tell_reader("family left out: the run's own detector is a Gaussian of such features, so no other family")
            return {}
        if own.has_feature_maps:
            tell_reader("family: the run's own detector looks at features of a network with given weights as well")
        try:
            judge = self._judge(inputs)
        except DataError as error:
            if self.encoder.weights != PACKAGED:
                raise
            tell_reader(f"family left out: {error}")
            return {}
        explanations, device, threshold = inputs.explanations, inputs.device, float(judge.threshold)
        edited = logits_of(judge, explanations.counterfactuals, device).numpy()  # (N, K)
        before = logits_of(judge, explanations.sources.images, device).numpy()
        normal = logits_of(judge, inputs.splits.test_normals.images, device).numpy()
        values: dict[str, float | str] = {
            **shares_of_concepts("family_validity", edited <= threshold, inputs.seed, self.num_resamples),
            "family_validity_normals": float((normal <= threshold).mean()),
            "family_validity_before": float((before <= threshold).mean()),
        }
        if not inputs.splits.has_test_anomalies:
            tell_reader("family_auroc left out: there are no test anomalies")
            return values
        values["family_auroc"] = found = auroc(normal, before)
        if found < TRUSTWORTHY:
            tell_reader(f"family's judge hardly sees these anomalies (family_auroc {found:.2f}); do not lean on it")
        return values

    def _judge(self, inputs: MetricInputs) -> Detector:
        train = inputs.splits.train
        some = train[:: math.ceil(len(train) / self.num_normals)]  # a view: mapped images stay in their file
        splits = replace(inputs.splits, train=some)
        return fit_gaussian(self.detector, self.encoder, splits, inputs.seed, inputs.device)[0]
