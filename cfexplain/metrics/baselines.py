"""What simpler ways to make a counterfactual score under the same metrics; without them no number says much.

Three baselines with one counterfactual an image: the nearest normal training image, gradient descent on the detector's
logit, an autoencoder's projection. Each takes the place of the run's explanations, and the metrics that were asked for
beside this one are computed again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from cfexplain.checks import check_positive
from cfexplain.detectors.base import logits_of
from cfexplain.errors import CfexplainWarning, ConfigError
from cfexplain.metrics.base import drawn, MetricInputs, MetricSpec, tell_reader
from cfexplain.metrics.baseline_methods import (
    descended, GradientRecipe, nearest_indices, Norm, projected, train_autoencoder,
)
from cfexplain.metrics.classifiers import NetworkRecipe
from cfexplain.types import Explanations

PREFIX = "baseline_"  # baseline_<method>_<key>
METHODS = ("cfexplain", "nearest", "gradient", "autoencoder")
NUM_IMAGES = f"{PREFIX}images"
COMPARED = {  # metric -> its keys that are defined for any way to make a counterfactual
    "auroc": ("cf_auroc",),
    "validity": ("validity",),
    "distance": ("l1_distance", "changed_fraction"),
    "fid": ("fid_normalized",),
    "survival": ("survival",),
    "transfer": ("transfer_auroc", "transfer_validity"),
    "oracle": ("oracle_normal_rate",),
    "classes": ("class_normal_rate",),
    "minimality": ("minimality", "nearer_than_normals"),
    "coverage": ("density", "coverage", "training_distance"),
    "variation": ("label_variation", "label_variation_changed"),
    "family": ("family_validity",),
}
INTERVAL = ("", "_low", "_high")


@dataclass(frozen=True, kw_only=True)
class Baselines(MetricSpec):
    """baseline_<method>_<key> of each method, cfexplain itself too, on the same images."""

    meanings = {NUM_IMAGES: ("explained images on which the methods are compared", "")}

    num_images: int
    gradient_norm: Norm
    gradient_radius: float
    gradient_step_size: float
    gradient_steps: int
    autoencoder_width: int
    autoencoder_features: int
    autoencoder_steps: int

    def __post_init__(self) -> None:
        check_positive(
            self, "num_images", "gradient_radius", "gradient_step_size", "gradient_steps", "autoencoder_width",
            "autoencoder_features", "autoencoder_steps",
        )

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        metrics = {name: spec for name, spec in inputs.metrics.items() if name in COMPARED}
        if not metrics:
            raise ConfigError(
                f"metric baselines compares methods by the metrics beside it: add one of {', '.join(COMPARED)}"
            )
        values: dict[str, float | str] = {}
        notes: dict[str, list[str]] = {}  # what the metrics warn of -> of which methods
        own = drawn(inputs.explanations, self.num_images, inputs.seed)
        for method, explanations in {"cfexplain": own, **self._baselines(own, inputs)}.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", CfexplainWarning)
                for name, spec in metrics.items():
                    found = spec.compute(replace(inputs, explanations=explanations))
                    keys = [f"{key}{end}" for key in COMPARED[name] for end in INTERVAL]
                    values |= {f"{PREFIX}{method}_{key}": found[key] for key in keys if key in found}
            for warning in caught:
                if issubclass(warning.category, CfexplainWarning):
                    notes.setdefault(str(warning.message), []).append(method)
        for note, methods in notes.items():
            who = "baselines" if len(methods) == len(METHODS) else f"baselines, {' and '.join(methods)}"
            tell_reader(f"{who}: {note}")
        return {NUM_IMAGES: len(own.sources), **values}

    def _baselines(self, own: Explanations, inputs: MetricInputs) -> dict[str, Explanations]:
        """Of the same sources, one counterfactual each."""
        sources, normals, device = own.sources.images, inputs.splits.train.images, inputs.device
        gradient = GradientRecipe(
            norm=self.gradient_norm, radius=self.gradient_radius, step_size=self.gradient_step_size,
            num_steps=self.gradient_steps,
        )
        recipe = NetworkRecipe(
            width=self.autoencoder_width, num_features=self.autoencoder_features, num_steps=self.autoencoder_steps
        )
        autoencoder = train_autoencoder(normals, recipe, device, inputs.cache_dir)
        images = {
            "nearest": normals[nearest_indices(sources, normals, device)],
            "gradient": descended(inputs.model.detector, sources, own.threshold, gradient, device),
            "autoencoder": projected(autoencoder, sources, device),
        }
        explanations = {}
        for method, edited in images.items():  # as explanations of one concept and one alpha bin
            logits = logits_of(inputs.model.detector, edited, device)
            explanations[method] = replace(own, images=edited[:, None, None], logits=logits[:, None, None])
        return explanations
