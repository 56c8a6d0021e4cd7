"""Explaining images: x_{alpha,k} = G(x, alpha, k) for every alpha bin and concept."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cfexplain.data.batches import to_float, to_uint8
from cfexplain.detectors.base import Detector, logits_of
from cfexplain.lazy import nn, no_grad, Tensor, torch
from cfexplain.types import Explanations, ImageSet


@no_grad
def explain_images(
    model: FittedModel, sources: ImageSet, device: torch.device | str, batch_size: int = 256,
    threshold: float | None = None,
) -> Explanations:
    """Counterfactuals of all sources, rounded to 8 bit before they are scored: what is saved is what is judged.

    threshold: the logit at or below which an image counts as normal; None for the detector's own.
    """
    n, channels, height, width = sources.images.shape
    shape = (n, model.num_alpha_bins, model.num_concepts)
    images = torch.empty(*shape, channels, height, width, dtype=torch.uint8)
    logits = torch.empty(shape)
    conditions = list(itertools.product(range(model.num_alpha_bins), range(model.num_concepts)))
    for start in range(0, n, batch_size):
        batch = to_float(sources.images[start : start + batch_size].to(device))
        for condition in conditions:
            alpha_bins, concepts = torch.tensor(condition, device=device)[:, None].expand(-1, len(batch))
            edited = to_uint8(model.generator(batch, alpha_bins, concepts)).cpu()
            images[start : start + batch_size, *condition] = edited
    for condition in conditions:
        logits[:, *condition] = logits_of(model.detector, images[:, *condition], device)
    return Explanations(
        sources=sources,
        images=images,
        logits=logits,
        source_logits=logits_of(model.detector, sources.images, device),
        threshold=model.detector.threshold.item() if threshold is None else threshold,
    )


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """What explaining needs; every network in eval mode and on one device.

    generator(images, alpha_bins, concepts) -> images; concept_classifier(source, edited) -> (N, K) logits, or None
    where the generator was not trained along with one.
    """

    detector: Detector
    generator: nn.Module
    concept_classifier: nn.Module | None
    num_concepts: int
    num_alpha_bins: int


def alpha_bins_of(logits: Tensor, num_alpha_bins: int) -> Tensor:
    """b(x) = min(floor(n phi(x)), n - 1) of (N,) logits: (N,) int64, the bin that stands for the score an image has."""
    return (logits.sigmoid() * num_alpha_bins).long().clamp_max(num_alpha_bins - 1)


def look_with(detector: Detector, *generators: nn.Module) -> None:
    """Let generators that see their detector's score map do so: by a function, the detector is no part of them."""
    for generator in generators:
        if hasattr(generator, "score_map") and detector.spec.has_score_map:
            generator.score_map = detector.score_map


class Confined(nn.Module):
    """A generator that edits within a region alone, (H, W) bool: elsewhere the source stays as it is, bit for bit."""

    def __init__(self, generator: nn.Module, region: Tensor) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("region", region)

    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        return torch.where(self.region, self.generator(images, alpha_bins, concepts), images)


def box_region(box: Sequence[float], height: int, width: int) -> Tensor:
    """(H, W) bool: the pixels whose middle lies within [left, top, right, bottom], shares of width and height."""
    ys, xs = ((torch.arange(side) + 0.5) / side for side in (height, width))
    left, top, right, bottom = box
    return ((ys >= top) & (ys <= bottom))[:, None] & (xs >= left) & (xs <= right)
