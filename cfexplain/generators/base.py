"""What a generator architecture is: a spec that builds the three networks of the counterfactual game."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cfexplain.lazy import nn, Tensor
from cfexplain.types import ImageShape


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where a generator edits. A generator that says so has `with_region` beside `forward`: images and this.

    drawn:  (N, C, H, W) in [-1, 1], what it puts in the place of the source within the region.
    logits: (N, 1, H, W) float32 of a pixel's being in the region.
    """

    drawn: Tensor
    logits: Tensor


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


def edited(generator: nn.Module, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> tuple[Tensor, Region | None]:
    """G(x, a, k) and, from a generator that says so, where it edits."""
    if hasattr(generator, "with_region"):
        return generator.with_region(images, alpha_bins, concepts)
    return generator(images, alpha_bins, concepts), None
