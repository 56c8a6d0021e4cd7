"""How the detector scores held-out normal images: what counterfactuals are to match, and under how much noise."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.detectors.base import Detector, batched_on_cpu
from cfexplain.engine.seeding import step_generator
from cfexplain.explanation.objective import GeneratorTraining, noisy
from cfexplain.lazy import Tensor, torch

MAX_NOISE, BEARABLE, BEARING_IMAGES = 0.2, 0.9, 1000  # of largest_bearable_noise


@dataclass(frozen=True, kw_only=True)
class NormalLevels:
    """How held-out normal images score under the noise that edited images get.

    noise:     standard deviation of that noise, in [-1, 1] units.
    stop:      kappa, the mean of -log(1 - phi), where the score loss of alpha = 0 ends; None: nowhere.
    quantiles: (batch_size / 2,) logits, which the counterfactuals of each concept are to match.
    """

    noise: float
    stop: float | None
    quantiles: Tensor


def largest_bearable_noise(detector: Detector, normals: Tensor, seed: int, device: torch.device) -> float:
    """The largest noise under which 90 % of normal images keep their verdict, at most 0.2, in [-1, 1] units.

    More than a detector's normals bear says nothing about an edit: what is matched would be the noise.
    normals: (N, C, H, W) uint8.  Found by halving: to MAX_NOISE / 2^8.
    """

    def verdicts(sigma: float) -> Tensor:
        noise = step_generator(seed, 0, "bearable noise")
        scored = batched_on_cpu(lambda images: detector.log_probs(noisy(images, sigma, noise)).logit, normals, device)
        return scored > detector.threshold.cpu()

    clean, low, high = verdicts(0.0), 0.0, MAX_NOISE
    if (verdicts(high) == clean).float().mean() >= BEARABLE:
        return high
    for _ in range(8):
        middle = (low + high) / 2
        is_borne = (verdicts(middle) == clean).float().mean() >= BEARABLE
        low, high = (middle, high) if is_borne else (low, middle)
    return low


def normal_levels(
    detector: Detector, held_out: Tensor, training: GeneratorTraining, seed: int, device: torch.device
) -> NormalLevels:
    """Of (N, C, H, W) uint8 held-out normal images."""
    sigma = training.score_noise
    if sigma is None:
        sigma = largest_bearable_noise(detector, held_out[:BEARING_IMAGES], seed, device)
    noise = step_generator(seed, 0, "normal level")

    def scored(images: Tensor) -> Tensor:
        found = detector.log_probs(noisy(images, sigma, noise))
        return torch.stack([found.logit, found.log_normal], dim=1)

    logits, log_normal = batched_on_cpu(scored, held_out, device).unbind(dim=1)
    shares = (torch.arange(training.batch_size // 2) + 0.5) / (training.batch_size // 2)
    stop = -log_normal.mean().item() if training.score_stop else None
    return NormalLevels(noise=sigma, stop=stop, quantiles=logits.quantile(shares).to(device))
