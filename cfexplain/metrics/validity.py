"""Share of counterfactuals that the detector takes for normal."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs
from cfexplain.metrics.bootstrap import shares_of_concepts
from cfexplain.types import Explanations


def is_valid(explanations: Explanations):
    """(N, K) bool array: the counterfactual's logit is at or below the detector's threshold."""
    return (explanations.logits[:, 0] <= explanations.threshold).numpy()


@dataclass(frozen=True, kw_only=True)
class Validity(IntervalMetricSpec):
    """validity over all concepts and of each."""

    meanings = {
        "validity": ("share of counterfactuals that the detector calls normal; 0.95 of real ones", "0.95"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        return {**shares_of_concepts("validity", is_valid(inputs.explanations), inputs.seed, self.num_resamples)}
