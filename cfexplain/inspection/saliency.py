"""Which pixels raise the score? Integrated gradients (Sundararajan et al., 2017), for comparison with counterfactuals.

The baseline is the nearest normal image. The method asks for a baseline with a neutral score; for a detector that is a
normal image, while a black or blurred one is odd itself and its score says nothing. The attributions then add up to
what the image scores above that normal image.
"""

from __future__ import annotations

import math

from cfexplain.data.batches import to_float
from cfexplain.detectors.base import Detector
from cfexplain.lazy import Tensor, torch

NUM_STEPS = 16  # on glyphs the sum is off by 0.5 % (median) of what it should be, with 32 by 0.2 %
GRADIENT_PIXELS = 512 * 28 * 28  # of a batch that is differentiated: a network's activations are kept for it


def integrated_gradients(
    detector: Detector, images: Tensor, baselines: Tensor, device: torch.device | str
) -> Tensor:
    """(N, C, H, W) float32 on the CPU: contributions to the logit, from the midpoints of NUM_STEPS steps.

    They add up to logit(image) - logit(baseline), but for the error of the sum. images, baselines: uint8.
    """
    start = to_float(baselines)
    difference = to_float(images) - start
    total = torch.zeros_like(start)
    for step in range(NUM_STEPS):
        total += logit_gradients(detector, start + (step + 0.5) / NUM_STEPS * difference, device)
    return difference * total / NUM_STEPS


def heatmaps(detector: Detector, images: Tensor, baselines: Tensor, device: torch.device | str) -> Tensor:
    """(N, H, W) float32 in [-1, 1]: integrated gradients summed over channels, each map over its largest magnitude."""
    size = images_within(PIXELS, images)
    parts = zip(images.split(size), baselines.split(size), strict=True)
    maps = torch.cat([integrated_gradients(detector, *part, device).sum(dim=1) for part in parts])
    largest = maps.abs().amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1.0)


def logit_gradients(detector: Detector, images: Tensor, device: torch.device | str) -> Tensor:
    """(N, C, H, W) float in [-1, 1] -> the same shape on the CPU: the gradient of each image's logit."""
    gradients = []
    for batch in images.split(images_within(GRADIENT_PIXELS, images)):
        batch = batch.to(device).detach().requires_grad_()
        with torch.enable_grad():
            logits = detector.log_probs(batch).logit
        gradients.append(torch.autograd.grad(logits.sum(), batch)[0].cpu())
    return torch.cat(gradients)


PIXELS = 1 << 22  # of a batch of float images: some 50 MB in RGB


def images_within(num_pixels: int, images: Tensor) -> int:
    """At least 1; images: (N, C, H, W)."""
    return max(1, num_pixels // math.prod(images.shape[2:]))
