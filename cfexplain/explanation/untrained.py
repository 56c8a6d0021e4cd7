"""A generator that plays no game: fitted to the normal images at once, and joined to the detector that it asks."""

from __future__ import annotations

from cfexplain.detectors.base import Detector, logits_of
from cfexplain.explanation.explain import FittedModel
from cfexplain.explanation.objective import GeneratorTraining
from cfexplain.generators.base import UntrainedGeneratorSpec
from cfexplain.lazy import nn, torch
from cfexplain.types import Splits


def fit_untrained(
    spec: UntrainedGeneratorSpec, training: GeneratorTraining, detector: Detector, splits: Splits, seed: int,
    device: torch.device,
) -> FittedModel:
    """Of `training` only the numbers of concepts and alpha bins count."""
    generator = spec.build_generator(splits.image_shape, training.num_alpha_bins, training.num_concepts)
    spec.fit(generator, splits, logits_of(detector, splits.held_out.images, device), training.num_concepts, seed)
    return untrained_model(generator.to(device).eval(), training, detector)


def untrained_model(generator: nn.Module, training: GeneratorTraining, detector: Detector) -> FittedModel:
    generator.ask(lambda images: detector.log_probs(images).logit.float(), detector.threshold.item())
    return FittedModel(
        detector=detector, generator=generator, concept_classifier=None, num_concepts=training.num_concepts,
        num_alpha_bins=training.num_alpha_bins,
    )
