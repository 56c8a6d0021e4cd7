"""Does a counterfactual leave alone what its concept is not about? And does it change what it is about?

The label variation score (Hvilshoj et al., 2021): how far apart a judge's probabilities of a label are before and after
the change, as a Jensen-Shannon divergence. The labels are the factors that a dataset knows, shape and colour, each with
a classifier of its own that no detector or generator ever saw. Who does nothing varies no label, so the factor that a
concept is about stands beside the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.detectors.base import batched_on_cpu
from cfexplain.lazy import Tensor
from cfexplain.metrics.base import MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import shares_of_concepts
from cfexplain.metrics.classifiers import ClassifierMetricSpec, ImageClassifier, train_classifier
from cfexplain.metrics.oracle import brightness, Factor, purity, seen_factors, true_factors, TRUSTWORTHY


def label_variations(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergences in bits, 0 to 1, of (..., L) probabilities each -> (...)."""
    mixed = (before + after) / 2
    return (_entropies(mixed) - (_entropies(before) + _entropies(after)) / 2).clip(0, 1)  # clip: what rounding leaves


def _entropies(probabilities: np.ndarray) -> np.ndarray:
    """(..., L) -> (...), in bits."""
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)  # 0 log 0 is 0
    return -(probabilities * logs).sum(axis=-1)


def variations_among_alike(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of pairs of neighbours, in their order, among the images of a label: (N, L), (N,) -> (M,), M < N."""
    order = labels.argsort(kind="stable")
    first, second = order[:-1], order[1:]
    is_alike = labels[first] == labels[second]
    return label_variations(probabilities[first[is_alike]], probabilities[second[is_alike]])


@dataclass(frozen=True)
class Judge:
    """(..., 3, H, W) uint8 -> (..., L) float64 probabilities of the labels of one factor."""

    classifier: ImageClassifier
    factor: Factor
    inputs: MetricInputs

    def __call__(self, images: Tensor) -> np.ndarray:
        shown = brightness(images) if self.factor == Factor.SHAPE else images
        return batched_on_cpu(self.classifier, shown, self.inputs.device).double().softmax(dim=-1).numpy()


@dataclass(frozen=True, kw_only=True)
class Variation(ClassifierMetricSpec):
    """label_variation, label_variation_changed and what to read them by; nothing where no factors are known.

    Which factor a concept is about is decided as for oracle_assignment.
    """

    meanings = {
        "label_variation": ("change of the judged factor that a concept should leave alone, bits", "0"),
        "label_variation_changed": ("the same of the factor that it should change", "1"),
        "label_variation_alike": ("label_variation between real test images that are alike in that factor", "-"),
        "label_variation_accuracy": ("how often the judge that is right less often is right on real test images", "1"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        rule, explanations = inputs.splits.factors, inputs.explanations
        if rule is None:
            tell_reader("variation left out: the dataset knows no factors, so nothing says what should stay")
            return {}
        if not inputs.splits.has_test_anomalies:
            tell_reader("variation left out: there are no test anomalies, and of exposure images no factor is known")
            return {}
        judges = self._judges(inputs)
        seen = seen_factors(
            explanations.counterfactuals, judges[Factor.SHAPE].classifier, rule.palette, inputs.device
        )
        about, _ = purity(np.isin(seen.shapes, rule.normal_shapes), np.isin(seen.colours, rule.normal_colours))
        other = [Factor(1 - factor) for factor in about]
        changes = {
            factor: label_variations(judge(explanations.sources.images)[:, None], judge(explanations.counterfactuals))
            for factor, judge in judges.items()
        }  # (N, K) each
        values: dict[str, float | str] = {}
        for key, factors in (("label_variation", other), ("label_variation_changed", about)):
            hits = np.stack([changes[factor][:, concept] for concept, factor in enumerate(factors)], axis=1)
            values |= shares_of_concepts(key, hits, inputs.seed, self.num_resamples)
        return values | self._of_real_images(inputs, judges, other)

    def _judges(self, inputs: MetricInputs) -> dict[Factor, Judge]:
        reference, rule = inputs.splits.reference, inputs.splits.factors
        num_colours = len(rule.colour_names)
        shape = (brightness(reference.images), reference.classes // num_colours, len(rule.shape_names))
        colour = (reference.images, reference.classes % num_colours, num_colours)
        return {
            factor: Judge(train_classifier(*known, self.recipe(), inputs.device, inputs.cache_dir), factor, inputs)
            for factor, known in {Factor.SHAPE: shape, Factor.COLOUR: colour}.items()
        }

    def _of_real_images(
        self, inputs: MetricInputs, judges: dict[Factor, Judge], other: list[Factor]
    ) -> dict[str, float]:
        test = inputs.splits.test
        labels = true_factors(test.classes, inputs.splits.factors)
        probabilities = {factor: judge(test.images) for factor, judge in judges.items()}
        accuracy = min(
            float((probabilities[factor].argmax(axis=1) == labels[factor]).mean()) for factor in judges
        )
        if accuracy < TRUSTWORTHY:
            tell_reader(f"a judge of label_variation is right on {accuracy:.0%} of the test images; do not lean on it")
        alike = [variations_among_alike(probabilities[factor], labels[factor]).mean() for factor in other]
        return {"label_variation_alike": float(np.mean(alike)), "label_variation_accuracy": accuracy}
