"""Training and calibrating a detector."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from cfexplain.data.augmentation import augmented
from cfexplain.data.base import rows, to_float
from cfexplain.detectors.base import DetectorSpec
from cfexplain.detectors.network import Detector, build_detector, in_batches, logits_of
from cfexplain.encoders.base import EncoderSpec
from cfexplain.engine.seeding import step_generator
from cfexplain.errors import ConfigError, FitError
from cfexplain.types import ImageSet, Splits, Tick

MIN_CENTRE = 0.1  # smallest magnitude of a centre entry: zero could be met with trivial weights (Ruff et al., 2018)
THRESHOLD_QUANTILE = 0.95
LOG_EVERY_STEPS = 50
RATE_DROPS = (0.6, 0.85)  # shares of the steps after which the learning rate falls tenfold
CENTRE_IMAGES = 2048


def fit_detector(
    spec: DetectorSpec,
    encoder: EncoderSpec,
    splits: Splits,
    seed: int,
    device: torch.device,
    report: Callable[[Tick], None],
) -> Detector:
    """Train on splits.train (and exposure where the detector needs it), calibrate on splits.held_out, freeze."""
    if spec.needs_exposure and splits.exposure is None:
        raise ConfigError(f"detector={spec.name} needs outlier exposure; set exposure=..., or detector=dsvdd")
    detector = build_detector(spec, encoder, splits.image_shape, seed).to(device)
    normals = splits.train.images_for(device)
    outliers = splits.exposure.images_for(device) if spec.needs_exposure and splits.exposure is not None else None
    _set_centre(detector, normals[:CENTRE_IMAGES].to(device))

    optimizer = torch.optim.Adam(detector.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    milestones = [round(share * spec.steps) for share in RATE_DROPS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    detector.train()
    started = time.perf_counter()
    for step in range(spec.steps):
        generator = step_generator(seed, step)
        images, labels = _sample(normals, outliers, spec.batch_size, generator, device)
        images = augmented(images, splits.augmentation, generator)
        loss = detector.losses(to_float(images), labels).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()

        if (step + 1) % LOG_EVERY_STEPS == 0 or step + 1 == spec.steps:
            value = loss.item()
            if value != value or value in (float("inf"), float("-inf")):
                raise FitError(f"the {spec.name} loss is {value} at step {step + 1}; lower detector.learning_rate")
            rate = (step + 1) * len(images) / (time.perf_counter() - started)
            report(Tick(stage="detector", step=step + 1, num_steps=spec.steps, values={"loss": value},
                        images_per_second=rate))
    detector.eval().requires_grad_(False)
    calibrate(detector, splits.held_out, device)
    check_not_collapsed(detector, splits)
    return detector


def _sample(
    normals: Tensor, outliers: Tensor | None, batch_size: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """batch_size normal images, and as many outliers where there are some; (N, C, H, W) uint8 and (N,) labels."""
    indices = torch.randint(len(normals), (batch_size,), generator=generator)
    images, labels = rows(normals, indices, device), torch.zeros(batch_size, dtype=torch.long)
    if outliers is not None:
        indices = torch.randint(len(outliers), (batch_size,), generator=generator)
        images = torch.cat([images, rows(outliers, indices, device)])
        labels = torch.cat([labels, torch.ones_like(labels)])
    return images, labels.to(device)


def _set_centre(detector: Detector, normals: Tensor) -> None:
    """The mean embedding of an untrained pass over normals, no entry closer to zero than MIN_CENTRE."""
    detector.train()  # batch statistics: the running ones are not there yet
    with torch.no_grad():
        centre = detector.embed(to_float(normals)).mean(dim=0)
    sign = torch.where(centre < 0, -1.0, 1.0)
    detector.centre.copy_(torch.where(centre.abs() < MIN_CENTRE, sign * MIN_CENTRE, centre))


def calibrate(detector: Detector, held_out: ImageSet, device: torch.device) -> None:
    """Set scale and threshold from held-out normal images."""
    outputs = in_batches(detector.embed, held_out.images, device)
    detector.scale.fill_(detector.spec.calibrated_scale(outputs, detector.centre.cpu()))
    logits = logits_of(detector, held_out.images, device)
    detector.threshold.fill_(logits.double().quantile(THRESHOLD_QUANTILE).item())


def check_not_collapsed(detector: Detector, splits: Splits, num_images: int = 512) -> None:
    """FitError where the embedding is (almost) the same for every image, or only a handful of scores occur."""
    parts = [splits.held_out.images[:num_images]]
    if splits.exposure is not None:
        parts.append(splits.exposure.images[:num_images])
    images = torch.cat(parts)
    device = detector.centre.device
    outputs = in_batches(detector.embed, images, device)
    spread = outputs.double().std(dim=0).max().item()
    size = outputs.double().abs().mean().item()
    num_scores = len(logits_of(detector, images, device).unique())
    if spread <= 1e-6 * max(size, 1e-6) or num_scores < min(10, len(images)):
        raise FitError(
            f"collapse: {detector.spec.name} gives {num_scores} different scores to {len(images)} images "
            f"(embedding spread {spread:.1e}); lower detector.learning_rate or detector.steps"
        )
