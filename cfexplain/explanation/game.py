"""The counterfactual game (Liznerski et al., arXiv 2402.14469), after DISSECT (Ghandeharioun et al., 2022).

The generator G edits an image x so that the frozen detector scores it alpha, in the way of concept k: G(x, a, k), with
a the bin of alpha. The discriminator D asks whether an image looks real for its bin, the concept classifier R which
concept an edit shows. A step, in order: sample a batch, edit it; D learns, then R, then G, against the other two and
the detector. What goes beyond the paper (score_stop, score_noise, matching, pull, diversity, overlap) has a weight or a
switch of its own in conf/fit; `fit=paper` has all of it off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cfexplain.data.batches import augmented, rows, to_float
from cfexplain.detectors.base import Detector, batched_on_cpu, logits_of
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.loop import Learner, frozen, take_step, train
from cfexplain.engine.seeding import derived_seed, step_generator
from cfexplain.errors import ConfigError
from cfexplain.explanation.explain import FittedModel
from cfexplain.explanation.objective import (
    GeneratorTraining, build_concept_classifier, diversity_losses, hinge_losses, l1_distances, matching_loss, noisy,
    overlap_losses, score_losses,
)
from cfexplain.generators.base import GeneratorSpec
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import Splits, Tick

KEEPS, CHANGES = slice(0, None, 2), slice(1, None, 2)  # rows of a batch that keep their bin, and that change it


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The players: G(x, a, k) -> images, D(x, a) -> (N,) logits, R(source, edited, noise) -> (N, K) logits."""

    generator: nn.Module
    discriminator: nn.Module
    concept_classifier: nn.Module
    detector: Detector


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is asked of G in a step: M pairs of an image x and the bin a and concept k that it is edited to.

    The first N are the batch's own, normal images before outliers; where a loss compares concepts, every outlier
    follows under each of the K concepts with alpha = 0.

    sources:     (M, C, H, W) in [-1, 1]; target_bins a, concepts k: (M,) int64.
    source_bins: (N,) int64, b(x).
    changing:    indices of the pairs that are asked to change their bin: the others show no concept.
    held_out:    (N - num_normals, C, H, W) held-out normal images, whose scores the counterfactuals are to match.
    """

    sources: Tensor
    source_bins: Tensor
    target_bins: Tensor
    concepts: Tensor
    changing: Tensor
    num_normals: int
    held_out: Tensor


class CounterfactualLearner(Learner):
    """The players, their optimisers and the average of G; `step` is one round of the game."""

    stage = "generator"
    advice = "lower fit.learning_rate"

    def __init__(
        self, spec: GeneratorSpec, training: GeneratorTraining, detector: Detector, splits: Splits, seed: int,
        device: torch.device, ranks: Ranks = ALONE,
    ) -> None:
        if splits.exposure is None:
            raise ConfigError("the generator needs exposure images as anomalous sources; set exposure=...")
        self.training, self.detector = training, detector.eval().requires_grad_(False)
        self.seed, self.device, self.ranks = seed, device, ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "generator"))
            shape = splits.image_shape
            self.generator = spec.build_generator(shape, training.num_alpha_bins, training.num_concepts).to(device)
            self.discriminator = spec.build_discriminator(shape, training.num_alpha_bins).to(device)
            self.concept_classifier = build_concept_classifier(spec, training, shape).to(device)
        self.networks = Networks(
            generator=self.generator, discriminator=self.discriminator, concept_classifier=self.concept_classifier,
            detector=self.detector,
        )
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (training.beta_1, training.beta_2)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), training.learning_rate, betas)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), training.discriminator_learning_rate, betas
        )
        self.concept_optimizer = torch.optim.Adam(self.concept_classifier.parameters(), training.learning_rate, betas)
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer, self.concept_optimizer):
            ranks.average_gradients_of(optimizer)

        self.augmentation = splits.augmentation
        self.normals = splits.train.images_for(device)
        self.exposure = splits.exposure.images_for(device)
        self.normal_bins, self.exposure_bins = self._source_bins(self.normals), self._source_bins(self.exposure)
        self.held_out = splits.held_out.images_for(device)
        self.score_stop = self._normal_level() if training.score_stop else None
        self.images_per_step = training.batch_size
        self.steps_done = 0

    def step(self) -> dict[str, Tensor]:
        """One round; its losses, each a mean over this rank's part of the batch."""
        training, batch = self.training, self.sample(self.steps_done)
        noise = self._noise(self.steps_done)
        self.discriminator.train(), self.concept_classifier.train()  # a picture between steps leaves R in eval mode
        edits = self.generator(batch.sources, batch.target_bins, batch.concepts)  # G(x, a, k)
        fakes = edits.detach()

        # D: real images in the bin of their own score, edited ones in the bin they were made for.
        loss_d = discriminator_loss(self.discriminator, batch, fakes)
        take_step(self.discriminator_optimizer, loss_d)

        # R: which concept was applied?
        asked = batch.concepts[batch.changing]
        concept_logits = self.concept_classifier(batch.sources[batch.changing], fakes[batch.changing], noise)
        loss_r = F.cross_entropy(concept_logits, asked)
        take_step(self.concept_optimizer, loss_r)

        # G: against D, R and the frozen detector.
        with frozen(self.discriminator, self.concept_classifier):
            terms = generator_losses(self.networks, batch, edits, training, self.score_stop, noise, self.ranks)
            loss_g = sum(getattr(training, name) * value for name, value in terms.items())
            take_step(self.generator_optimizer, loss_g)
        self._update_average()
        self.steps_done += 1
        accuracy = (concept_logits.argmax(dim=1) == asked).float().mean()
        losses = {"generator": loss_g, "discriminator": loss_d, "concept_classifier": loss_r}
        return {name: value.detach() for name, value in (losses | {"concept_accuracy": accuracy} | terms).items()}

    def sample(self, step: int) -> Batch:
        """This rank's part of a batch: half normal, half exposure images, with a target bin and a concept each.

        Every second image keeps its bin (reconstruction), the others draw one of the other bins. For two bins that is
        the uniform draw of the paper with its two halves made equal; and shapes stay the same from step to step.
        """
        training, ranks, generator = self.training, self.ranks, step_generator(self.seed, step, "batch")
        half = training.batch_size // 2

        def draw(high: int, count: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator).to(self.device)

        def part(values: Tensor) -> Tensor:
            return ranks.part(values, half, half)

        normal, outlier = draw(len(self.normals), half), draw(len(self.exposure), half)
        images = torch.cat([rows(self.normals, normal, self.device), rows(self.exposure, outlier, self.device)])
        source_bins = part(torch.cat([self.normal_bins[normal], self.exposure_bins[outlier]]))
        images = part(augmented(images, self.augmentation, step_generator(self.seed, step, "augmentation")))
        if self.augmentation is not None:
            source_bins = self._source_bins(images)
        sources, num_bins = to_float(images), training.num_alpha_bins
        target_bins = (source_bins + 1 + part(draw(num_bins - 1, 2 * half))) % num_bins
        target_bins[KEEPS] = source_bins[KEEPS]
        concepts = part(draw(training.num_concepts, 2 * half))
        indices = torch.arange(len(sources), device=self.device)
        compared = sources[half // ranks.size :] if training.compares_concepts else sources[:0]
        every_concept = torch.arange(training.num_concepts, device=self.device).repeat(len(compared))
        return Batch(
            sources=torch.cat([sources, compared.repeat_interleave(training.num_concepts, dim=0)]),
            source_bins=source_bins,
            target_bins=torch.cat([target_bins, torch.zeros_like(every_concept)]),
            concepts=torch.cat([concepts, every_concept]),
            changing=torch.cat([indices[CHANGES], len(indices) + torch.arange(len(every_concept), device=self.device)]),
            num_normals=half // ranks.size,
            held_out=to_float(rows(self.held_out, ranks.part(draw(len(self.held_out), half)), self.device)),
        )

    def _source_bins(self, images: Tensor) -> Tensor:
        """b(x) = min(floor(n phi(x)), n - 1) of each training image; the detector is frozen, so once is enough."""
        scores = logits_of(self.detector, images, self.device).sigmoid()
        num_bins = self.training.num_alpha_bins
        return (scores * num_bins).long().clamp_max(num_bins - 1).to(self.device)

    def _normal_level(self) -> float:
        """kappa: the mean of -log(1 - phi) over held-out normals, under the noise that edited images get."""
        noise = step_generator(self.seed, 0, "normal level")
        log_normal = batched_on_cpu(
            lambda images: self.detector.log_probs(noisy(images, self.training.score_noise, noise)).log_normal,
            self.held_out,
            self.device,
        )
        return -log_normal.mean().item()

    def _noise(self, step: int) -> torch.Generator:
        """Of this rank, on its device."""
        stream = "noise" if self.ranks.rank == 0 else f"noise of rank {self.ranks.rank}"
        return step_generator(self.seed, step, stream, self.device)

    @no_grad
    def _update_average(self) -> None:
        """Exponential moving average of G; its first steps follow faster, so that it forgets the initial weights."""
        decay = min(self.training.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        averages, values = list(self.average.parameters()), list(self.generator.parameters())
        torch._foreach_lerp_(averages, values, 1 - decay)

    def fitted(self) -> FittedModel:
        return FittedModel(
            detector=self.detector,
            generator=self.average,
            concept_classifier=self.concept_classifier.eval(),
            num_concepts=self.training.num_concepts,
            num_alpha_bins=self.training.num_alpha_bins,
        )

    @property
    def parts(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "concept_classifier", "average", "generator_optimizer",
                 "discriminator_optimizer", "concept_optimizer")
        return {name: getattr(self, name) for name in names}


def discriminator_loss(discriminator: nn.Module, batch: Batch, fakes: Tensor) -> Tensor:
    """L_D = mean max(0, 1 - D(x, b)) + mean max(0, 1 + D(G(x, a, k), a))."""
    fake_logits = discriminator(fakes, batch.target_bins)
    real_logits = discriminator(batch.sources[: len(batch.source_bins)], batch.source_bins)
    real_losses = hinge_losses(real_logits, is_real=True)
    return real_losses.mean() + hinge_losses(fake_logits, is_real=False).mean()


def generator_losses(
    networks: Networks, batch: Batch, edits: Tensor, training: GeneratorTraining, score_stop: float | None,
    noise: torch.Generator, ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """G's terms by the name of their weight in GeneratorTraining, unweighted; those of weight 0 are left out.

    edits:      (M, C, H, W), G(x, a, k) of the batch's pairs.
    score_stop: kappa, the normals' mean -log(1 - phi), where the score loss of alpha = 0 ends; None: nowhere.
    """
    n, has_cycle = len(batch.source_bins), training.cycle > 0
    sources, outliers = batch.sources[:n], batch.sources[batch.num_normals : n]
    if training.compares_concepts:
        counterfactuals = edits[n:].unflatten(0, (len(outliers), training.num_concepts))  # (N', K, C, H, W)
    edited = edits[:n]
    # The way back, G(G(x, a, k), b, k). Where a = b, G(x, a, k) is itself the reconstruction.
    back = CHANGES if has_cycle else slice(0, 0)
    cycles, cycle_bins = edited[back], batch.source_bins[back]
    if has_cycle:
        cycles = networks.generator(cycles, cycle_bins, batch.concepts[:n][back])
    log_probs = networks.detector.log_probs(noisy(torch.cat([edits, cycles]), training.score_noise, noise))
    alphas = torch.cat([batch.target_bins, cycle_bins]) / (training.num_alpha_bins - 1)

    losses = {
        # -D(G(x, a, k), a)
        "adversarial": -networks.discriminator(edits, batch.target_bins).mean(),
        # -[alpha log phi + (1 - alpha) log(1 - phi)] of G(x, a, k), and of the way back for the source's own bin
        "score": score_losses(log_probs.log_anomalous, log_probs.log_normal, alphas, score_stop).mean(),
        # |x - G(x, b, k)| + |x - G(G(x, a, k), b, k)|
        "reconstruction": l1_distances(edited[KEEPS], sources[KEEPS]).mean(),
    }
    if has_cycle:
        way_back = l1_distances(cycles, sources[back]).mean()
        losses["reconstruction"] = losses["reconstruction"] + training.cycle * way_back
    # Cross-entropy of R against k, for the pairs (x, G(x, a, k)) and (G(x, a, k), way back)
    before, after = torch.cat([batch.sources[batch.changing], edited[back]]), torch.cat([edits[batch.changing], cycles])
    concepts = torch.cat([batch.concepts[batch.changing], batch.concepts[:n][back]])
    losses["concept"] = F.cross_entropy(networks.concept_classifier(before, after, noise), concepts)
    if training.compares_concepts:
        logits = log_probs.logit[n : len(edits)].unflatten(0, counterfactuals.shape[:2])
        losses["matching"] = _matching(networks.detector, logits, batch.held_out, training.score_noise, noise, ranks)
        losses["pull"] = l1_distances(edits[n:], batch.sources[n:]).mean()
        if training.num_concepts > 1:
            losses["diversity"] = diversity_losses(counterfactuals, training.diversity_margin).mean()
            losses["overlap"] = overlap_losses(outliers, counterfactuals).mean()
    return {name: value for name, value in losses.items() if getattr(training, name) > 0}


def _matching(
    detector: Detector, logits: Tensor, held_out: Tensor, score_noise: float, noise: torch.Generator, ranks: Ranks
) -> Tensor:
    """Distance of the counterfactuals' (N, K) logits to those of N held-out normals, () .

    Each concept for itself: matching their mixture let both concepts turn red (purity 0.15 instead of 0.79). Under the
    same noise: clean normals would ask for more than they score themselves. Of the whole batch, on every rank: it is a
    distance of two distributions, not a mean over images.
    """
    with torch.no_grad():
        normal_logits = detector.log_probs(noisy(held_out, score_noise, noise)).logit
    logits, normal_logits = ranks.gathered(logits), ranks.gathered(normal_logits)
    return torch.stack([matching_loss(of_concept, normal_logits) for of_concept in logits.unbind(dim=1)]).mean()


def fit_generator(
    learner: CounterfactualLearner, report: Callable[[Tick], None], on_step: Callable[[], None] = lambda: None,
    save: Callable[[], None] | None = None,
) -> FittedModel:
    """Train to fit.steps, from wherever the learner stands; `on_step` draws pictures, `save` writes a checkpoint."""
    training = learner.training
    train(learner, training.steps, training.log_every_steps, report, on_step=on_step, save=save,
          save_every_steps=training.checkpoint_every_steps)
    return learner.fitted()
