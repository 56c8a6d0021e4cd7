"""What a classifier of the dataset's classes takes the counterfactuals for. A normal image belongs to a normal class.

The detector knows one class and whatever exposure it saw; this classifier learnt from real images of every class, and
neither detector nor generator ever saw it. It need not share the detector's blind spots, but has its own: where colour
tells the classes apart, a warning triangle that turned blue is a mandatory sign to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.detectors.base import batched_on_cpu
from cfexplain.lazy import Tensor
from cfexplain.metrics.base import MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import shares_of_concepts
from cfexplain.metrics.classifiers import ClassifierMetricSpec, train_classifier

TRUSTWORTHY = 0.8


@dataclass(frozen=True, kw_only=True)
class Classes(ClassifierMetricSpec):
    """class_* keys; nothing where only one class has training images, or the dataset knows its factors (oracle)."""

    meanings = {
        "class_normal_rate": ("share that a classifier of all classes takes for a normal one", "1"),
        "class_normal_rate_normals": ("the same of real normal test images: what can be expected at best", "-"),
        "class_normal_rate_anomalies": ("the same of the anomalies before the change", "-"),
        "class_accuracy": ("how often it is right on real test images, normal and anomalous alike", "1"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        splits = inputs.splits
        classes, num_classes = splits.reference.classes, len(splits.class_names)
        is_normal = np.isin(np.arange(num_classes), splits.train.classes.numpy())
        counts = np.bincount(classes.numpy(), minlength=num_classes)
        if splits.factors is not None or not (counts[is_normal].any() and counts[~is_normal].any()):
            return {}
        classifier = train_classifier(
            splits.reference.images, classes, num_classes, self.recipe(), inputs.device, inputs.cache_dir
        )

        def takes_for_normal(images: Tensor) -> np.ndarray:
            log_probs = batched_on_cpu(classifier, images, inputs.device).log_softmax(dim=-1).numpy()
            return log_odds(log_probs, is_normal, counts) > 0

        hits = takes_for_normal(inputs.explanations.counterfactuals)  # (N, K)
        values: dict[str, float | str] = {
            **shares_of_concepts("class_normal_rate", hits, inputs.seed, self.num_resamples)
        }
        normals = float(takes_for_normal(splits.test_normals.images).mean())
        values["class_normal_rate_normals"] = normals
        if not splits.has_test_anomalies:
            tell_reader("class_accuracy left out: there are no test anomalies")
            return values
        anomalies = float(takes_for_normal(splits.test_anomalies.images).mean())
        accuracy = (normals + 1 - anomalies) / 2
        if accuracy < TRUSTWORTHY:
            message = f"the classifier of the classes is right on {accuracy:.0%} of the test images; do not lean on it"
            tell_reader(message)
        return values | {"class_normal_rate_anomalies": anomalies, "class_accuracy": accuracy}


def log_odds(log_probs: np.ndarray, is_normal: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(..., classes) log probabilities -> (...) log odds of a normal class, as if half of all images were normal.

    is_normal: (classes,) bool. counts: (classes,) images that the classifier learnt from; they weigh what it says.
    """
    normal, others = (np.logaddexp.reduce(log_probs[..., part], axis=-1) for part in (is_normal, ~is_normal))
    return normal - others - np.log(counts[is_normal].sum() / counts[~is_normal].sum())
