"""A fitted explainer: the frozen detector, the averaged generator, the concept classifier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cfexplain.detectors.network import Detector
from cfexplain.explanation.spec import ConceptView, Fit
from cfexplain.generators.base import GeneratorSpec
from cfexplain.nets.blocks import DirectionClassifier
from cfexplain.types import ImageShape


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """What explaining needs; every network in eval mode and on one device.

    generator(images, alpha_bins, concepts) -> images; concept_classifier(source, edited) -> (N, K) logits.
    """

    detector: Detector
    generator: nn.Module
    concept_classifier: nn.Module
    num_concepts: int
    num_alpha_bins: int


def build_concept_classifier(spec: GeneratorSpec, fit: Fit, image_shape: ImageShape) -> nn.Module:
    """R(source, edited, noise_like=None) -> (N, K) logits, as fit.concept_classifier says."""
    if fit.concept_classifier is ConceptView.pair:
        return spec.build_pair_classifier(image_shape, fit.num_concepts)
    return DirectionClassifier(image_shape[0], fit.num_concepts, fit.concept_grid, fit.concept_noise)
