"""Training and calibrating a detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cfexplain.data.batches import to_float, TrainingImages
from cfexplain.detectors.base import build_detector, Detector, batched_on_cpu, LearnedDetectorSpec, logits_of
from cfexplain.encoders.base import EncoderSpec
from cfexplain.engine.distributed import ALONE, Ranks, share_batch_norms
from cfexplain.engine.loop import Learner, train
from cfexplain.engine.seeding import step_generator
from cfexplain.errors import ConfigError, FitError
from cfexplain.lazy import Tensor, torch
from cfexplain.types import ImageSet, Splits, Tick

MIN_CENTRE = 0.1  # smallest magnitude of a centre entry: zero could be met with trivial weights (Ruff et al., 2018)
THRESHOLD_QUANTILE = 0.95
LOG_EVERY_STEPS = 50
RATE_DROPS = (0.6, 0.85)  # shares of the steps after which the learning rate falls tenfold
CENTRE_IMAGES = 2048


class DetectorLearner(Learner):
    """The network to be trained, its optimiser and schedule; `step` is one batch, of which each rank has a part."""

    stage = "detector"
    advice = "lower detector.learning_rate"

    def __init__(
        self, spec: LearnedDetectorSpec, encoder: EncoderSpec, splits: Splits, seed: int, device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        if spec.needs_exposure and splits.exposure is None:
            raise ConfigError(f"detector={spec.name} needs outlier exposure; set exposure=..., or detector=dsvdd")
        self.spec, self.splits, self.seed, self.device, self.ranks = spec, splits, seed, device, ranks
        self.detector = build_detector(spec, encoder, splits.image_shape, seed).to(device)
        self.data = TrainingImages(splits, device, with_outliers=spec.needs_exposure)
        _set_centre(self.detector, self.data.sources[0][:CENTRE_IMAGES].to(device))
        share_batch_norms(self.detector, ranks)  # after the centre, for which each rank has all images
        self.optimizer = torch.optim.Adam(
            self.detector.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
        ranks.average_gradients_of(self.optimizer)
        milestones = [round(share * spec.steps) for share in RATE_DROPS]
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones, gamma=0.1)
        self.images_per_step = spec.batch_size * len(self.data.sources)
        self.steps_done = 0
        self.detector.train()

    def step(self) -> dict[str, Tensor]:
        generator = step_generator(self.seed, self.steps_done, device=self.device)
        images = self.data.batch(self.data.draw(self.spec.batch_size, generator), generator).images
        labels = torch.arange(len(self.data.sources), device=self.device).repeat_interleave(self.spec.batch_size)
        loss = self.detector.losses(to_float(self.ranks.part(images)), self.ranks.part(labels)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.steps_done += 1
        return {"loss": loss.detach()}

    def fitted(self) -> Detector:
        """Calibrated on splits.held_out, and frozen."""
        self.detector.eval().requires_grad_(False)
        calibrate(self.detector, self.splits.held_out, self.device)
        check_not_collapsed(self.detector, self.splits)
        return self.detector

    @property
    def parts(self) -> dict[str, Any]:
        return {"detector": self.detector, "optimizer": self.optimizer, "schedule": self.schedule}


def fit_detector(
    spec: LearnedDetectorSpec,
    encoder: EncoderSpec,
    splits: Splits,
    seed: int,
    device: torch.device,
    report: Callable[[Tick], None],
    autocast_dtype: torch.dtype | None = None,
) -> Detector:
    """Train on splits.train (and exposure where the detector needs it), calibrate on splits.held_out, freeze."""
    learner = DetectorLearner(spec, encoder, splits, seed, device)
    learner.autocast_dtype = autocast_dtype
    train(learner, spec.steps, LOG_EVERY_STEPS, report)
    return learner.fitted()


def _set_centre(detector: Detector, normals: Tensor) -> None:
    """The mean embedding of an untrained pass over normals, no entry closer to zero than MIN_CENTRE."""
    detector.train()  # batch statistics: the running ones are not there yet
    with torch.no_grad():
        centre = detector.embed(to_float(normals)).mean(dim=0)
    sign = torch.where(centre < 0, -1.0, 1.0)
    detector.centre.copy_(torch.where(centre.abs() < MIN_CENTRE, sign * MIN_CENTRE, centre))


def calibrate(detector: Detector, held_out: ImageSet, device: torch.device) -> None:
    """Set scale and threshold from held-out normal images."""
    outputs = batched_on_cpu(detector.embed, held_out.images, device)
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
    outputs = batched_on_cpu(detector.embed, images, device)
    spread = outputs.double().std(dim=0).max().item()
    size = outputs.double().abs().mean().item()
    num_scores = len(logits_of(detector, images, device).unique())
    if spread <= 1e-6 * max(size, 1e-6) or num_scores < min(10, len(images)):
        raise FitError(
            f"collapse: {detector.spec.name} gives {num_scores} different scores to {len(images)} images "
            f"(embedding spread {spread:.1e}); lower detector.learning_rate or detector.steps"
        )
