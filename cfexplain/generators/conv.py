"""Convolutional generator with conditional group norm, after DISSECT (Ghandeharioun et al., 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cfexplain.checks import check_at_least
from cfexplain.generators.base import TrainedGeneratorSpec
from cfexplain.generators.blocks import ConditionalGroupNorm, ConditionalResBlock
from cfexplain.lazy import F, nn, Tensor, torch
from cfexplain.types import ImageShape


@dataclass(frozen=True, kw_only=True)
class Conv(TrainedGeneratorSpec):
    """width: channels of the first level, doubled at each downsampling.

    source_skip: the source, times this, is added to the output before the tanh; 0 draws every picture anew.
    exact_skip: the source is added as the value whose tanh it is, up to source_skip: for photographs, as greys count.
    head_width: channels of the head's layer at full resolution, which sees the source, scaled by condition; 0: none.
    joins_stem: the stem's features are joined to those before the head.
    condition_spread: how much the norms' scales of different concepts and alpha bins differ at the start.
    """

    width: int
    num_downsamplings: int
    num_middle_blocks: int
    source_skip: float
    exact_skip: bool
    condition_spread: float
    head_width: int
    joins_stem: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(
            self, width=1, num_downsamplings=0, num_middle_blocks=0, head_width=0, source_skip=0, condition_spread=0,
        )

    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        return ConditionalGenerator(
            image_shape, self.width, self.num_downsamplings, self.num_middle_blocks, self.patch, num_alpha_bins,
            num_concepts, self.source_skip, self.exact_skip, self.condition_spread, self.head_width, self.joins_stem,
        )


class ConditionalGenerator(nn.Module):
    """Residual encoder-decoder; the condition (alpha bin, concept) enters through every norm.

    A pixel-unshuffle stem of factor `patch` cuts the cost by about its square; the head enlarges smoothly, as a
    pixel-shuffle one leaves a grid in the strokes. Sizes that the strides do not divide are padded and cut again.

    The source is added before the tanh, so what an edit leaves alone stays sharp: times `source_skip`, which drives
    greys to black and white as in a drawing, or with `exact_skip` as the value whose tanh it is, up to that size, so
    that each shade stays what it was and black and white are still within reach of an edit. This tempts the generator
    to nibble at strokes until the detector gives in: it needs a strong adversarial loss, noise before the score, and a
    concept classifier that sees coarse changes only (conf/fit/default.yaml).

    condition_spread: standard deviation of the norms' initial scales. With 0 all concepts start as one, and only a loss
    that compares them, such as fit.diversity, tells them apart.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        width: int,
        num_downsamplings: int,
        num_middle_blocks: int,
        patch: int,
        num_alpha_bins: int,
        num_concepts: int,
        source_skip: float,
        exact_skip: bool,
        condition_spread: float,
        head_width: int,
        joins_stem: bool,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.num_concepts = num_concepts
        self.patch = patch
        self.source_skip = source_skip
        self.exact_skip = exact_skip
        self.multiple = patch << num_downsamplings
        num_conditions = num_alpha_bins * num_concepts
        widths = [width << level for level in range(num_downsamplings + 1)]
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        downs = [ConditionalResBlock(a, b, num_conditions, resize=0.5) for a, b in zip(widths[:-1], widths[1:])]
        middles = [ConditionalResBlock(widths[-1], widths[-1], num_conditions) for _ in range(num_middle_blocks)]
        ups = [ConditionalResBlock(b, a, num_conditions, resize=2.0) for a, b in zip(widths[:-1], widths[1:])][::-1]
        self.blocks = nn.ModuleList([*downs, *middles, *ups])
        self.head_norm = ConditionalGroupNorm(width, num_conditions)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1) if joins_stem else None
        self.head = nn.Conv2d(head_width or width, channels, 3, padding=1)
        self.sees_source = head_width > 0
        if head_width > 0:
            self.head_features = nn.Conv2d(width, head_width, 3, padding=1)
            self.head_source = nn.Conv2d(channels, head_width, 3, padding=1)
            self.head_scale = nn.Embedding(num_conditions, head_width)
            nn.init.ones_(self.head_scale.weight)
        for module in self.modules():
            if isinstance(module, ConditionalGroupNorm) and condition_spread > 0:
                nn.init.normal_(module.scale.weight, 1.0, condition_spread)

    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], (N,) bins, (N,) concepts -> (N, C, H, W) in [-1, 1]."""
        height, width = images.shape[2:]
        conditions = alpha_bins * self.num_concepts + concepts
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(images, padding, mode="reflect") if any(padding) else images
        features = stem = self.stem(F.pixel_unshuffle(padded, self.patch) if self.patch > 1 else padded)
        for block in self.blocks:
            features = block(features, conditions)
        if self.join is not None:
            features = features + self.join(torch.cat([stem, features], dim=1))
        features = F.relu(self.head_norm(features, conditions))
        if self.sees_source:
            features = self.head_features(features)  # before it is enlarged: a quarter of the work
        if self.patch > 1:
            features = F.interpolate(features, scale_factor=self.patch, mode="bilinear", align_corners=False)
        if self.sees_source:
            seen = self.head_source(padded) * self.head_scale(conditions)[:, :, None, None]
            features = F.relu(features + seen)
        edited = self.head(features)[:, :, :height, :width]
        return (self._kept(images) + edited).tanh()

    def _kept(self, images: Tensor) -> Tensor:
        """The argument of the tanh where nothing is edited."""
        if not self.exact_skip:
            return self.source_skip * images
        limit = math.tanh(self.source_skip)
        return images.clamp(-limit, limit).atanh()
