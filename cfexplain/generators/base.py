"""What a generator is: a spec that builds G and, where it is trained in the game, D and the paper's R beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from cfexplain.checks import check_positive
from cfexplain.generators.blocks import PairClassifier, ProjectionDiscriminator
from cfexplain.lazy import nn, Tensor
from cfexplain.types import ImageShape, Splits


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where a generator edits. A generator that says so has `with_region` beside `forward`: images and this; and, as
    held-out normal images tell where a region begins, `track` for training and `calibrate` for its end.

    drawn:  (N, C, H, W) in [-1, 1], what it puts in the place of the source within the region.
    logits: (N, 1, H, W) float32 of a pixel's being in the region.
    """

    drawn: Tensor
    logits: Tensor


def edited(generator: nn.Module, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> tuple[Tensor, Region | None]:
    """G(x, a, k) and, from a generator that says so, where it edits."""
    if hasattr(generator, "with_region"):
        return generator.with_region(images, alpha_bins, concepts)
    return generator(images, alpha_bins, concepts), None


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(ABC):
    """What makes counterfactuals."""

    is_trained: ClassVar[bool]

    @abstractmethod
    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        """G(images, alpha_bins, concepts) -> images in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class TrainedGeneratorSpec(GeneratorSpec):
    """A player of the game, with the sizes of the two others.

    patch: factor of the pixel-unshuffle stem of generator and discriminator; 2 costs about a quarter of 1.
    """

    is_trained = True
    makes_anomalies = True  # else G(x, a, k) = x for a > 0, and nothing of that is learned

    patch: int
    discriminator_width: int
    discriminator_blocks: int
    concept_width: int
    concept_blocks: int

    def __post_init__(self) -> None:
        check_positive(
            self, "patch", "discriminator_width", "discriminator_blocks", "concept_width", "concept_blocks"
        )

    def build_discriminator(self, image_shape: ImageShape, num_alpha_bins: int) -> nn.Module:
        """D(images, alpha_bins) -> (N,) logits."""
        return ProjectionDiscriminator(
            image_shape[0], self.discriminator_width, self.discriminator_blocks, self.patch, num_alpha_bins
        )

    def build_pair_classifier(self, image_shape: ImageShape, num_concepts: int) -> nn.Module:
        """R(source, edited, noise=None) -> (N, K) logits, a deep network."""
        return PairClassifier(image_shape[0], self.concept_width, self.concept_blocks, num_concepts)


@dataclass(frozen=True, kw_only=True)
class UntrainedGeneratorSpec(GeneratorSpec):
    """A generator that keeps what it needs of the normal images, and asks the detector while it explains.

    Its module has `ask(logits, threshold)`: logits of (N, C, H, W) images in [-1, 1] as (N,), and the logit at or below
    which an image counts as normal.
    """

    is_trained = False

    @abstractmethod
    def fit(
        self, generator: nn.Module, splits: Splits, held_out_logits: Tensor, num_concepts: int, seed: int
    ) -> None:
        """Fill the buffers of what `build_generator` made. held_out_logits: (M,), the detector's.

        ConfigError where the normal images do not suffice.
        """
