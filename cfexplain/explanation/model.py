"""A fitted explainer: the frozen detector, the averaged generator, the concept classifier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cfexplain.detectors.network import Detector


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
