"""Training the counterfactual generator: in each step D learns first, then R, then G."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.data.augmentation import augmented
from cfexplain.data.base import rows, to_float
from cfexplain.detectors.network import Detector, in_batches, logits_of
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.loop import Learner, train
from cfexplain.engine.seeding import derived_seed, step_generator
from cfexplain.errors import ConfigError
from cfexplain.explanation.model import FittedModel, build_concept_classifier
from cfexplain.explanation.objective import Batch, Noise, generator_losses, noisy
from cfexplain.explanation.spec import Fit
from cfexplain.generators.base import GeneratorSpec
from cfexplain.types import Splits, Tick


class CounterfactualLearner(Learner):
    """The three networks, their optimisers and the average of G; `step` is one round of the game."""

    stage = "generator"
    advice = "lower fit.learning_rate"

    def __init__(
        self, spec: GeneratorSpec, fit: Fit, detector: Detector, splits: Splits, seed: int, device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        if splits.exposure is None:
            raise ConfigError("the generator needs exposure images as anomalous sources; set exposure=...")
        self.fit, self.detector, self.seed, self.device = fit, detector.eval().requires_grad_(False), seed, device
        self.ranks = ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "generator"))
            shape = splits.image_shape
            self.generator = spec.build_generator(shape, fit.num_alpha_bins, fit.num_concepts).to(device)
            self.discriminator = spec.build_discriminator(shape, fit.num_alpha_bins).to(device)
            self.concept_classifier = build_concept_classifier(spec, fit, shape).to(device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (fit.beta_1, fit.beta_2)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), fit.learning_rate, betas)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), fit.discriminator_learning_rate, betas
        )
        self.concept_optimizer = torch.optim.Adam(self.concept_classifier.parameters(), fit.learning_rate, betas)
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer, self.concept_optimizer):
            ranks.average_gradients_of(optimizer)

        self.augmentation = splits.augmentation
        self.normals = splits.train.images_for(device)
        self.exposure = splits.exposure.images_for(device)
        self.normal_bins = self._source_bins(self.normals)
        self.exposure_bins = self._source_bins(self.exposure)
        self.held_out = splits.held_out.images_for(device)
        self.score_stop = self._normal_level() if fit.score_stop else None
        self.images_per_step = fit.batch_size
        self.steps_done = 0

    def _source_bins(self, images: Tensor) -> Tensor:
        """b(x) = min(floor(n phi(x)), n - 1) of each training image; the detector is frozen, so once is enough."""
        scores = logits_of(self.detector, images, self.device).sigmoid()
        num_bins = self.fit.num_alpha_bins
        return (scores * num_bins).long().clamp_max(num_bins - 1).to(self.device)

    def _normal_level(self) -> float:
        """kappa: the mean of -log(1 - phi) over held-out normals, under the noise that edited images get."""
        noise = Noise(generator=step_generator(self.seed, 0, "normal level"), ranks=ALONE).on()
        log_normal = in_batches(
            lambda images: self.detector.log_probs(noisy(images, self.fit.score_noise, noise)).log_normal,
            self.held_out,
            self.device,
        )
        return -log_normal.mean().item()

    def sample(self, step: int) -> Batch:
        """Half normal, half exposure images, with a target bin and a concept each; the same for the same step.

        All ranks draw the same whole batch, and each takes its part of either half.

        Every second image keeps its bin (reconstruction), the others draw one of the other bins. For two bins that is
        the uniform draw of the paper with its two halves made equal; and shapes stay the same from step to step.
        """
        fit, ranks, generator = self.fit, self.ranks, step_generator(self.seed, step, "batch")
        half = fit.batch_size // 2

        def draw(high: int, count: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator).to(self.device)

        def own(values: Tensor) -> Tensor:
            return ranks.part(values, half, half)

        normal, outlier = draw(len(self.normals), half), draw(len(self.exposure), half)
        images = torch.cat([rows(self.normals, normal, self.device), rows(self.exposure, outlier, self.device)])
        source_bins = own(torch.cat([self.normal_bins[normal], self.exposure_bins[outlier]]))
        images = own(augmented(images, self.augmentation, step_generator(self.seed, step, "augmentation")))
        if self.augmentation is not None:
            source_bins = self._source_bins(images)
        target_bins = (source_bins + 1 + own(draw(fit.num_alpha_bins - 1, 2 * half))) % fit.num_alpha_bins
        target_bins[::2] = source_bins[::2]
        return Batch(
            sources=to_float(images),
            source_bins=source_bins,
            target_bins=target_bins,
            concepts=own(draw(fit.num_concepts, 2 * half)),
            num_normals=half // ranks.size,
            held_out=to_float(rows(self.held_out, ranks.part(draw(len(self.held_out), half)), self.device)),
            noise=Noise(generator=step_generator(self.seed, step, "noise"), ranks=ranks),
            ranks=ranks,
        )

    def step(self) -> dict[str, Tensor]:
        """One D, one R and one G step; the losses, each already averaged over this rank's part of the batch."""
        self.discriminator.train(), self.concept_classifier.train()  # a picture between steps leaves R in eval mode
        fit, batch = self.fit, self.sample(self.steps_done)
        edits = batch.edit(self.generator, fit)

        # D: real images in the bin of their own score, edited ones in the bin they were made for.
        fakes = edits.images.detach()
        fake_logits = self.discriminator(fakes, edits.target_bins)
        real_logits = self.discriminator(batch.sources, batch.source_bins)
        loss_d = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        _update(self.discriminator_optimizer, loss_d)

        # R: which concept was applied? Only pairs that were asked to change their bin carry one.
        chosen = edits.concept_rows
        noise_like = batch.noise.on(*edits.concept_blocks)
        concept_logits = self.concept_classifier(edits.sources[chosen], fakes[chosen], noise_like)
        loss_r = F.cross_entropy(concept_logits, edits.concepts[chosen])
        _update(self.concept_optimizer, loss_r)

        # G: against D, R and the frozen detector.
        with _frozen(self.discriminator, self.concept_classifier):
            parts = generator_losses(
                batch, edits, self.generator, self.discriminator, self.concept_classifier, self.detector, fit,
                self.score_stop,
            )
            loss_g = sum(getattr(fit, name) * value for name, value in parts.items())
            _update(self.generator_optimizer, loss_g)
        self._update_average()
        self.steps_done += 1
        accuracy = (concept_logits.argmax(dim=1) == edits.concepts[chosen]).float().mean()
        details = {name: value.detach() for name, value in parts.items()}
        return {"generator": loss_g.detach(), "discriminator": loss_d.detach(), "concept_classifier": loss_r.detach(),
                "concept_accuracy": accuracy, **details}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average of G; its first steps follow faster, so that it forgets the initial weights."""
        decay = min(self.fit.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        averages, values = list(self.average.parameters()), list(self.generator.parameters())
        torch._foreach_lerp_(averages, values, 1 - decay)

    def fitted(self) -> FittedModel:
        return FittedModel(
            detector=self.detector,
            generator=self.average,
            concept_classifier=self.concept_classifier.eval(),
            num_concepts=self.fit.num_concepts,
            num_alpha_bins=self.fit.num_alpha_bins,
        )

    @property
    def parts(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "concept_classifier", "average", "generator_optimizer",
                 "discriminator_optimizer", "concept_optimizer")
        return {name: getattr(self, name) for name in names}


def fit_generator(
    learner: CounterfactualLearner,
    report: Callable[[Tick], None],
    on_step: Callable[[], None] = lambda: None,
    save: Callable[[], None] | None = None,
) -> FittedModel:
    """Train to fit.steps, from wherever the learner stands; `on_step` draws pictures, `save` writes a checkpoint."""
    fit = learner.fit
    train(learner, fit.steps, fit.log_every_steps, report, on_step=on_step, save=save,
          save_every_steps=fit.checkpoint_every_steps, ranks=learner.ranks)
    return learner.fitted()


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@contextmanager
def _frozen(*networks: nn.Module) -> Iterator[None]:
    """No gradients to these networks' weights, and no power iteration of their spectral norms."""
    for network in networks:
        network.requires_grad_(False).eval()
    yield
    for network in networks:
        network.requires_grad_(True).train()
