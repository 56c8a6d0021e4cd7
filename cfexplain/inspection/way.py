"""The way from an image to its counterfactual, in equal steps."""

from __future__ import annotations

from cfexplain.detectors.base import Detector, logits_of
from cfexplain.inspection.base import NUM_WAY_STEPS
from cfexplain.lazy import Tensor, torch


def blended(sources: Tensor, targets: Tensor, shares: Tensor | float) -> Tensor:
    """source + share * (target - source), rounded to 8 bit: (..., C, H, W) uint8; `shares` broadcasts, in [0, 1]."""
    start = sources.float()
    return (start + shares * (targets.float() - start)).round_().byte()


def way_images(sources: Tensor, images: Tensor, step: int) -> Tensor:
    """(N, K, C, H, W) uint8: step `step` of the way, 0 the image itself, NUM_WAY_STEPS - 1 the one for alpha = 0.

    sources: (N, C, H, W); images: (N, A, K, C, H, W), bin 0 is alpha = 0. In between lie the images of bins A - 2, ...,
    1; that of the highest bin, which keeps an anomaly as it is, is left out: for two bins the way is a straight blend.
    """
    stops = [sources[:, None].expand_as(images[:, 0]), *images[:, :-1].flip(1).unbind(1)]
    position = step / (NUM_WAY_STEPS - 1) * (len(stops) - 1)
    first = min(int(position), len(stops) - 2)
    return blended(stops[first], stops[first + 1], position - first)


def way_logits(
    detector: Detector, sources: Tensor, images: Tensor, ends: tuple[Tensor, Tensor], device: torch.device | str
) -> Tensor:
    """(N, K, NUM_WAY_STEPS) float32, logits along the way. ends: (N,) of the sources, (N, K) for alpha = 0."""
    first, last = ends
    logits = [first[:, None].expand_as(last)]
    for step in range(1, NUM_WAY_STEPS - 1):
        pictures = way_images(sources, images, step)
        logits.append(logits_of(detector, pictures.flatten(0, 1), device).reshape(last.shape))
    return torch.stack([*logits, last], dim=2)
