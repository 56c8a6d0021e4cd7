"""What a generator architecture is: a spec that builds the three networks of the counterfactual game."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cfexplain.lazy import nn
from cfexplain.types import ImageShape


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(ABC):
    """Sizes of generator, discriminator and concept classifier."""

    @abstractmethod
    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        """G(images, alpha_bins, concepts) -> images in [-1, 1]."""

    @abstractmethod
    def build_discriminator(self, image_shape: ImageShape, num_alpha_bins: int) -> nn.Module:
        """D(images, alpha_bins) -> (N,) logits."""

    @abstractmethod
    def build_pair_classifier(self, image_shape: ImageShape, num_concepts: int) -> nn.Module:
        """R(source, edited, noise=None) -> (N, K) logits, a deep network."""
