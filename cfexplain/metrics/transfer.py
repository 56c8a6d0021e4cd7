"""Do the counterfactuals also convince a detector that the generator never saw? If not, the change is adversarial."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import logits_of
from cfexplain.metrics.auroc import auroc, auroc_with_interval
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval

SEED_OFFSET = 1000  # far from the seeds of a usual sweep, so no run's own detector comes up again


@dataclass(frozen=True, kw_only=True)
class Transfer(IntervalMetricSpec):
    """transfer_auroc, its gap to cf_auroc, transfer_validity; all under the same kind of detector from another seed.

    transfer_detector_auroc says how good that detector is: an ignorant one would give the ideal 0.5.
    """

    meanings = {
        "transfer_auroc": ("cf_auroc under a detector never seen in training", "cf_auroc"),
        "transfer_gap": ("transfer_auroc minus cf_auroc", "0"),
        "transfer_detector_auroc": ("detector_auroc of that other detector", "1"),
        "transfer_validity": ("validity under that other detector", "1"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        detector = inputs.fit_detector(inputs.splits, inputs.seed + SEED_OFFSET)
        own_spec = inputs.model.detector.spec
        if not own_spec.is_trained:
            stand_in = detector.spec.name
            tell_reader(f"transfer: detector={own_spec.name} cannot be trained again; a detector={stand_in} stands in")
        explanations = inputs.explanations
        normal = logits_of(detector, inputs.splits.test_normals.images, inputs.device).numpy()
        logits = logits_of(detector, explanations.counterfactuals, inputs.device).numpy()  # (N, K)

        values = auroc_with_interval("transfer_auroc", normal, logits, inputs.seed, self.num_resamples)
        own = auroc(inputs.test_normal_logits.numpy(), explanations.logits[:, 0].numpy())
        valid = logits <= float(detector.threshold)
        values |= {"transfer_gap": values["transfer_auroc"] - own}
        values |= share_with_interval("transfer_validity", valid, inputs.seed, self.num_resamples)
        if not inputs.splits.has_test_anomalies:
            tell_reader("transfer_detector_auroc left out: there are no test anomalies")
            return values
        anomalous = logits_of(detector, explanations.sources.images, inputs.device).numpy()
        return values | {"transfer_detector_auroc": auroc(normal, anomalous)}
