"""Projected gradient descent on the detector's logit (Madry et al., 2018): the gradient counterfactual.

Nothing holds it near normal images, so it is an adversarial example: the detector is convinced, and nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cfexplain.data.batches import to_float, to_uint8
from cfexplain.detectors.base import Detector
from cfexplain.lazy import Tensor, torch

MAX_BATCH_SIZE = 256
BATCH_VALUES = 1 << 21  # pixels and channels of a batch: a backward pass keeps what the forward pass computes
TINY = 1e-12


class Norm(Enum):
    """What the ball and a step are measured by: a pixel's largest change, or the root mean square over pixels."""

    linf = "linf"
    l2 = "l2"


@dataclass(frozen=True, kw_only=True)
class GradientRecipe:
    """radius, step_size: in [-1, 1] units, measured by `norm`."""

    norm: Norm
    radius: float
    step_size: float
    num_steps: int


def descended(
    detector: Detector, images: Tensor, threshold: float, recipe: GradientRecipe, device: torch.device | str
) -> Tensor:
    """Each image moved down the logit until its 8-bit rounding is at or below the threshold, at most num_steps steps.

    images: (N, C, H, W) uint8 -> the same. It never leaves the ball around its image.
    """
    batch_size = min(MAX_BATCH_SIZE, max(1, BATCH_VALUES // images[0].numel()))
    return torch.cat([
        _descended(detector, batch, threshold, recipe, device) for batch in images.split(batch_size)
    ])


def _descended(
    detector: Detector, images: Tensor, threshold: float, recipe: GradientRecipe, device: torch.device | str
) -> Tensor:
    found = images.clone()
    active = torch.arange(len(images))  # those still above the threshold
    centres = to_float(images.to(device))
    positions = centres
    for _ in range(recipe.num_steps):
        logits, gradients = _logits_and_gradients(detector, to_float(found[active].to(device)))
        above = logits > threshold
        if not above.any():
            break
        active, centres, positions = active[above.cpu()], centres[above], positions[above]
        steps = recipe.step_size * _direction(gradients[above], recipe.norm)
        positions = (centres + _in_ball(positions - steps - centres, recipe)).clamp(-1, 1)
        found[active] = to_uint8(positions).cpu()
    return found


def _logits_and_gradients(detector: Detector, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        images = images.requires_grad_()
        logits = detector.log_probs(images).logit
        (gradients,) = torch.autograd.grad(logits.sum(), images)
    return logits.detach(), gradients


def _direction(gradients: Tensor, norm: Norm) -> Tensor:
    """The steepest direction whose size in the norm is 1."""
    return gradients.sign() if norm is Norm.linf else gradients / _root_mean_square(gradients).clamp_min(TINY)


def _in_ball(changes: Tensor, recipe: GradientRecipe) -> Tensor:
    if recipe.norm is Norm.linf:
        return changes.clamp(-recipe.radius, recipe.radius)
    return changes * (recipe.radius / _root_mean_square(changes).clamp_min(TINY)).clamp_max(1)


def _root_mean_square(values: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, 1, 1)."""
    return values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
