"""Convolutional generator with conditional group norm, after DISSECT (Ghandeharioun et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cfexplain.generators.base import GeneratorSpec
from cfexplain.types import ImageShape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Conv(GeneratorSpec):
    """width: channels of the first level, doubled at each downsampling.

    patch: factor of the pixel-unshuffle stem of generator and discriminator; 2 costs about a quarter of 1.
    source_skip: the source, times this, is added to the output before the tanh; 0 draws every picture anew.
    exact_skip: the source is added as the value whose tanh it is, up to source_skip: for photographs, whose greys count.
    condition_spread: how much the norms' scales of different concepts and alpha bins differ at the start.
    """

    width: int
    num_downsamplings: int
    num_middle_blocks: int
    patch: int
    source_skip: float
    exact_skip: bool
    condition_spread: float
    discriminator_width: int
    discriminator_blocks: int
    concept_width: int
    concept_blocks: int

    def __post_init__(self) -> None:
        for name in ("num_downsamplings", "num_middle_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("source_skip", "condition_spread"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        positive = ("width", "patch", "discriminator_width", "discriminator_blocks", "concept_width", "concept_blocks")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")

    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        from cfexplain.nets.conditional_generator import ConditionalGenerator

        return ConditionalGenerator(
            image_shape, self.width, self.num_downsamplings, self.num_middle_blocks, self.patch, num_alpha_bins,
            num_concepts, self.source_skip, self.exact_skip, self.condition_spread,
        )

    def build_discriminator(self, image_shape: ImageShape, num_alpha_bins: int) -> nn.Module:
        from cfexplain.nets.blocks import ProjectionDiscriminator

        return ProjectionDiscriminator(
            image_shape[0], self.discriminator_width, self.discriminator_blocks, self.patch, num_alpha_bins
        )

    def build_pair_classifier(self, image_shape: ImageShape, num_concepts: int) -> nn.Module:
        from cfexplain.nets.blocks import PairClassifier

        return PairClassifier(image_shape[0], self.concept_width, self.concept_blocks, num_concepts)
