"""What a generator architecture is: a spec that builds the three networks of the counterfactual game.

One that is not trained (patches.py) plays no game and has neither of the two others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from cfexplain.lazy import nn, Tensor
from cfexplain.types import ImageShape, Splits


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(ABC):
    """Sizes of generator, discriminator and concept classifier."""

    is_trained: ClassVar[bool] = True

    @abstractmethod
    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        """G(images, alpha_bins, concepts) -> images in [-1, 1]."""

    @abstractmethod
    def build_discriminator(self, image_shape: ImageShape, num_alpha_bins: int) -> nn.Module:
        """D(images, alpha_bins) -> (N,) logits."""

    @abstractmethod
    def build_pair_classifier(self, image_shape: ImageShape, num_concepts: int) -> nn.Module:
        """R(source, edited, noise=None) -> (N, K) logits, a deep network."""


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

    def build_discriminator(self, image_shape: ImageShape, num_alpha_bins: int) -> nn.Module:
        raise AssertionError("it plays no game")

    def build_pair_classifier(self, image_shape: ImageShape, num_concepts: int) -> nn.Module:
        raise AssertionError("it plays no game")
