"""What simpler ways to make a counterfactual score under the same metrics; without them no number says much.

Three baselines with one counterfactual an image: the nearest normal training image, gradient descent on the detector's
logit, an autoencoder's projection. Each takes the place of the run's explanations, and the metrics that were asked for
beside this one are computed again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from cfexplain.checks import check_positive
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.errors import CfexplainWarning, ConfigError
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.base import drawn, MetricInputs, MetricSpec, tell_reader
from cfexplain.metrics.baseline_methods import (
    descended, GradientRecipe, nearest_indices, Norm, projected, train_autoencoder,
)
from cfexplain.metrics.classifiers import NetworkRecipe
from cfexplain.types import Explanations

PREFIX = "baseline_"  # baseline_<method>_<key>
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


class SimplerWay(StrEnum):
    nearest = "nearest"
    gradient = "gradient"
    autoencoder = "autoencoder"


METHODS = ("cfexplain", *SimplerWay)


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
        explanations = {}
        for way in SimplerWay:  # as explanations of one concept and one alpha bin
            edited = self.counterfactuals(
                way, own.sources.images, own.threshold, inputs.model.detector, inputs.splits.train.images,
                inputs.device, inputs.cache_dir,
            )
            logits = logits_of(inputs.model.detector, edited, inputs.device)
            explanations[way] = replace(own, images=edited[:, None, None], logits=logits[:, None, None])
        return explanations

    def counterfactuals(
        self, way: SimplerWay, sources: Tensor, threshold: float, detector: Detector, normals: Tensor,
        device: torch.device, cache_dir: Path,
    ) -> Tensor:
        """(N, C, H, W) uint8 -> what a simpler way makes of each, the same.

        threshold: the logit where gradient descent ends. normals: (T, C, H, W) uint8, training images, may be mapped.
        """
        if way is SimplerWay.nearest:
            return normals[nearest_indices(sources, normals, device)]
        if way is SimplerWay.gradient:
            recipe = GradientRecipe(
                norm=self.gradient_norm, radius=self.gradient_radius, step_size=self.gradient_step_size,
                num_steps=self.gradient_steps,
            )
            return descended(detector, sources, threshold, recipe, device)
        width, num_features, num_steps = self.autoencoder_width, self.autoencoder_features, self.autoencoder_steps
        network = NetworkRecipe(width=width, num_features=num_features, num_steps=num_steps)
        return projected(train_autoencoder(normals, network, device, cache_dir), sources, device)
