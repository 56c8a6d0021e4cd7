"""The counterfactual game (Liznerski et al., arXiv 2402.14469), after DISSECT (Ghandeharioun et al., 2022).

The generator G edits an image x so that the frozen detector scores it alpha, in the way of concept k: G(x, a, k), with
a the bin of alpha. The discriminator D asks whether an image looks real for its bin, the concept classifier R which
concept an edit shows. A step, in order: sample a batch, edit it; D learns, then R, then G, against the other two and
the detector. What goes beyond the paper (score_stop, score_noise, matching, pull, diversity, overlap) has a weight or a
switch of its own in conf/fit; `fit=paper` has all of it off.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from cfexplain.data.batches import to_float, TrainingImages
from cfexplain.detectors.base import batched_on_cpu, Detector
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.loop import Learner, frozen, take_step
from cfexplain.engine.seeding import derived_seed, step_generator
from cfexplain.errors import ConfigError
from cfexplain.explanation.explain import alpha_bins_of, FittedModel, look_with
from cfexplain.explanation.normal_levels import NormalLevels, normal_levels
from cfexplain.explanation.objective import (
    GeneratorTraining, as_directions, build_concept_classifier, diversity_losses, hinge_losses, l1_distances,
    matching_loss, noisy, overlap_losses, repair_terms, score_losses,
)
from cfexplain.generators.base import edited, Region, TrainedGeneratorSpec
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import Splits


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The players: G(x, a, k) -> images, D(x, a) -> (N,) logits, R(source, edited, noise) -> (N, K) logits."""

    generator: nn.Module
    discriminator: nn.Module
    concept_classifier: nn.Module
    detector: Detector


@dataclass(frozen=True, kw_only=True)
class Batch:
    """N images, normal ones before outliers, and M pairs of an image, a bin and a concept that are asked of G.

    The first `num_kept` pairs keep the bin of their image, the others change it; the last are, where a loss compares
    concepts, every outlier under each of the K concepts with alpha = 0.

    images:      (N, C, H, W) in [-1, 1].
    source_bins: (N,) int64, b(x).
    indices:     (M,) int64, each pair's image, target_bins a and concepts k: what is asked of G for it.
    returning:   (R,) int64, the pairs that are edited back to where they came from.
    compared:    (N', K) int64, the pairs of outliers under each concept; N' is 0 where no loss compares them.
    origins:     (N', C, H, W), what the outliers were made of, and masks: (N', H, W) bool, where they differ from it;
                 None for outliers that are images of their own.
    """

    images: Tensor
    source_bins: Tensor
    indices: Tensor
    target_bins: Tensor
    concepts: Tensor
    num_kept: int
    returning: Tensor
    compared: Tensor
    origins: Tensor | None = None
    masks: Tensor | None = None

    @property
    def sources(self) -> Tensor:
        return self.images[self.indices]

    @property
    def bins_before(self) -> Tensor:
        return self.source_bins[self.indices]


class CounterfactualLearner(Learner):
    """The players, their optimisers and the average of G; `step` is one round of the game."""

    stage = "generator"
    advice = "lower fit.learning_rate"

    def __init__(
        self, spec: TrainedGeneratorSpec, training: GeneratorTraining, detector: Detector, splits: Splits, seed: int,
        device: torch.device, ranks: Ranks = ALONE,
    ) -> None:
        if splits.exposure is None:
            raise ConfigError("the generator needs exposure images as anomalous sources; set exposure=...")
        if training.perceptual > 0 and not detector.has_feature_maps:
            raise ConfigError("fit.perceptual needs a detector on encoder=lite0 or encoder=timm, for its features")
        if training.cycle > 0 and not spec.makes_anomalies:
            raise ConfigError("a generator that only makes images more normal has no way back; set fit.cycle=0")
        self.training, self.detector = training, detector.eval().requires_grad_(False)
        self.seed, self.device, self.ranks, self.rises = seed, device, ranks, spec.makes_anomalies
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "generator"))
            shape = splits.image_shape
            place = {"device": device, "memory_format": torch.channels_last}  # convolutions are fastest in this layout
            self.generator = spec.build_generator(shape, training.num_alpha_bins, training.num_concepts).to(**place)
            self.discriminator = spec.build_discriminator(shape, training.num_alpha_bins).to(**place)
            self.concept_classifier = build_concept_classifier(spec, training, shape).to(device)
        self.networks = Networks(
            generator=self.generator, discriminator=self.discriminator, concept_classifier=self.concept_classifier,
            detector=self.detector)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        look_with(detector, self.generator, self.average)
        self.generator_optimizer = training.adam(self.generator, training.learning_rate)
        self.discriminator_optimizer = training.adam(self.discriminator, training.discriminator_learning_rate)
        self.concept_optimizer = training.adam(self.concept_classifier, training.learning_rate)
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer, self.concept_optimizer):
            ranks.average_gradients_of(optimizer)

        self.data = TrainingImages(splits, device)
        if not self.data.is_varied:  # the detector is frozen, so once is enough
            self.bins = [batched_on_cpu(self._source_bins, images, device).to(device) for images in self.data.sources]
        self.held_out = splits.held_out.images_for(device)
        self.levels = normal_levels(detector, self.held_out, training, seed, device)
        self.images_per_step, self.steps_done = training.batch_size, 0

    def step(self) -> dict[str, Tensor]:
        """One round; its losses, each a mean over this rank's part of the batch."""
        training, batch = self.training, self.sample(self.steps_done)
        noise = self._noise(self.steps_done)
        self._set_learning_rates()
        self.discriminator.train(), self.concept_classifier.train()  # a picture between steps leaves R in eval mode
        edits, region = edited(self.generator, batch.sources, batch.target_bins, batch.concepts)  # G(x, a, k)
        fakes = edits.detach()
        if region is not None:  # of normal images that stay what they are
            self.generator.track(self.ranks.gathered(region.logits[: len(batch.images) // 4].detach()))

        # D: real images in the bin of their own score, edited ones in the bin they were made for.
        loss_d = discriminator_loss(self.discriminator, batch, fakes)
        take_step(self.discriminator_optimizer, loss_d)

        # R: which concept was applied?
        changed = slice(batch.num_kept, None)
        pairs, asked = (batch.sources[changed], fakes[changed]), batch.concepts[changed]
        if training.orders_pairs:
            pairs = as_directions(pairs, (batch.target_bins > batch.bins_before)[changed])
        concept_logits = self.concept_classifier(*pairs, noise)
        loss_r = F.cross_entropy(concept_logits, asked)
        take_step(self.concept_optimizer, loss_r)

        # G: against D, R and the frozen detector.
        with frozen(self.discriminator, self.concept_classifier):
            terms = generator_losses(self.networks, batch, edits, region, training, self.levels, noise, self.ranks)
            loss_g = sum(getattr(training, name) * value for name, value in terms.items())
            take_step(self.generator_optimizer, loss_g)
        self._update_average()
        self.steps_done += 1
        losses = {"generator": loss_g, "discriminator": loss_d, "concept_classifier": loss_r,
                  "concept_accuracy": (concept_logits.argmax(dim=1) == asked).float().mean(), **terms}
        return {name: value.detach() for name, value in losses.items()}

    def sample(self, step: int) -> Batch:
        """This rank's part of a batch: half normal, half exposure images, and what is asked of G for them.

        Every second image keeps its bin (reconstruction), the others draw another: for two bins the uniform draw of the
        paper, its halves made equal. Outliers that are compared under all concepts are not asked for alpha = 0 twice.
        """
        training, ranks, generator = self.training, self.ranks, step_generator(self.seed, step, "batch", self.device)
        half, num_bins, num_concepts = training.batch_size // 2, training.num_alpha_bins, training.num_concepts

        def draw(high: int, count: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator, device=self.device)

        def part(values: Tensor) -> Tensor:
            return ranks.part(values, half, half)

        indices = self.data.draw(half, generator)
        drawn = self.data.batch(indices, generator)
        images = to_float(part(drawn.images))
        if self.data.is_varied:
            source_bins = self._source_bins(images)
        else:
            source_bins = part(torch.cat([bins[chosen] for bins, chosen in zip(self.bins, indices, strict=True)]))
        other_bins = (source_bins + 1 + part(draw(num_bins - 1, 2 * half))) % num_bins
        concepts = part(draw(num_concepts, 2 * half))

        index = torch.arange(len(images), device=self.device)
        normals, outliers = index.split(len(index) // 2)
        kept, changed = (index[::2], index[1::2]) if self.rises else (normals[::2], outliers)
        outliers = outliers if training.compares_concepts else outliers[:0]
        is_compared = len(outliers) > 0 and (num_bins == 2 or not self.rises)  # alpha = 0 is their other bin
        if is_compared:
            changed = changed[: len(normals) // 2 * self.rises]
        every_concept = torch.arange(num_concepts, device=self.device).repeat(len(outliers))
        compared = torch.arange(len(every_concept), device=self.device).view(-1, num_concepts)
        compared = compared + len(kept) + len(changed)
        returning = len(kept) + torch.arange(len(changed), device=self.device)
        if is_compared:
            returning = torch.cat([returning, compared.gather(1, concepts[outliers][:, None])[1::2, 0]])
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            source_bins=source_bins,
            indices=torch.cat([kept, changed, outliers.repeat_interleave(num_concepts)]),
            target_bins=self.rises * torch.cat([source_bins[kept], other_bins[changed], 0 * every_concept]),
            concepts=torch.cat([concepts[kept], concepts[changed], every_concept]),
            num_kept=len(kept),
            returning=returning,
            compared=compared,
            origins=None if drawn.origins is None else to_float(ranks.part(drawn.origins)),
            masks=None if drawn.masks is None else ranks.part(drawn.masks),
        )

    @no_grad
    def _source_bins(self, images: Tensor) -> Tensor:
        """b(x) of (N, C, H, W) float images."""
        return alpha_bins_of(self.detector.log_probs(images).logit.float(), self.training.num_alpha_bins)

    def _set_learning_rates(self) -> None:
        rate, discriminator_rate = self.training.learning_rates(self.steps_done)
        self.generator_optimizer.param_groups[0]["lr"] = self.concept_optimizer.param_groups[0]["lr"] = rate
        self.discriminator_optimizer.param_groups[0]["lr"] = discriminator_rate

    def _noise(self, step: int) -> torch.Generator:
        stream = "noise" if self.ranks.rank == 0 else f"noise of rank {self.ranks.rank}"
        return step_generator(self.seed, step, stream, self.device)

    @no_grad
    def _update_average(self) -> None:
        """Exponential moving average of G; its first steps follow faster, so that it forgets the initial weights."""
        decay = min(self.training.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)

    def fitted(self) -> FittedModel:
        if hasattr(self.average, "calibrate"):
            self.average.calibrate(self.held_out)
        return FittedModel(
            detector=self.detector, generator=self.average, concept_classifier=self.concept_classifier.eval(),
            num_concepts=self.training.num_concepts, num_alpha_bins=self.training.num_alpha_bins,
        )

    @property
    def parts(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "concept_classifier", "average", "generator_optimizer",
                 "discriminator_optimizer", "concept_optimizer")
        return {name: getattr(self, name) for name in names}


def discriminator_loss(discriminator: nn.Module, batch: Batch, fakes: Tensor) -> Tensor:
    """L_D = mean max(0, 1 - D(x, b)) + mean max(0, 1 + D(G(x, a, k), a))."""
    logits = discriminator(torch.cat([batch.images, fakes]), torch.cat([batch.source_bins, batch.target_bins]))
    real_logits, fake_logits = logits.split([len(batch.images), len(fakes)])
    return hinge_losses(real_logits, is_real=True).mean() + hinge_losses(fake_logits, is_real=False).mean()


def generator_losses(
    networks: Networks, batch: Batch, edits: Tensor, region: Region | None, training: GeneratorTraining,
    levels: NormalLevels, noise: torch.Generator, ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """G's terms by the name of their weight in GeneratorTraining, unweighted; those of weight 0 are left out.

    edits: (M, C, H, W), G(x, a, k) of the batch's pairs.
    """
    sources, bins_before, changed = batch.sources, batch.bins_before, slice(batch.num_kept, None)
    # The way back, G(G(x, a, k), b, k). Where a = b, G(x, a, k) is itself the reconstruction.
    back = batch.returning if training.cycle > 0 else batch.returning[:0]
    cycles, cycle_bins = edits[back], bins_before[back]
    if training.cycle > 0:
        cycles = networks.generator(cycles, cycle_bins, batch.concepts[back])
    log_probs = networks.detector.log_probs(noisy(torch.cat([edits, cycles]), levels.noise, noise))
    alphas = torch.cat([batch.target_bins, cycle_bins]) / (training.num_alpha_bins - 1)

    losses = {
        # -D(G(x, a, k), a)
        "adversarial": -networks.discriminator(edits, batch.target_bins).mean(),
        # -[alpha log phi + (1 - alpha) log(1 - phi)] of G(x, a, k), and of the way back for the source's own bin
        "score": score_losses(log_probs.log_anomalous, log_probs.log_normal, alphas, levels.stop).mean(),
        # |x - G(x, b, k)| + |x - G(G(x, a, k), b, k)|
        "reconstruction": l1_distances(edits[: batch.num_kept], sources[: batch.num_kept]).mean(),
    }
    if training.cycle > 0:
        way_back = l1_distances(cycles, sources[back]).mean()
        losses["reconstruction"] = losses["reconstruction"] + training.cycle * way_back
    # Cross-entropy of R against k, for the pairs (x, G(x, a, k)) and (G(x, a, k), way back)
    pairs = torch.cat([sources[changed], edits[back]]), torch.cat([edits[changed], cycles])
    if training.orders_pairs:
        is_rising = batch.target_bins > bins_before
        pairs = as_directions(pairs, torch.cat([is_rising[changed], ~is_rising[back]]))
    concepts = torch.cat([batch.concepts[changed], batch.concepts[back]])
    losses["concept"] = F.cross_entropy(networks.concept_classifier(*pairs, noise), concepts)
    if training.compares_concepts:
        counterfactuals, outliers = edits[batch.compared], sources[batch.compared[:, 0]]  # (N', K, C, H, W)
        # Each concept for itself: matching their mixture let both concepts turn red (purity 0.15 instead of 0.79). Of
        # the whole batch, on every rank: it is a distance of two distributions, not a mean over images.
        logits = ranks.gathered(log_probs.logit[batch.compared]).unbind(dim=1)
        losses["matching"] = torch.stack([matching_loss(of_concept, levels.quantiles) for of_concept in logits]).mean()
        losses["pull"] = l1_distances(counterfactuals.flatten(0, 1), sources[batch.compared.flatten()]).mean()
        if batch.origins is not None:
            asked = batch.compared.flatten()  # G(x', 0, k), against the x that x' was made of
            at = None if region is None else Region(drawn=region.drawn[asked], logits=region.logits[asked])
            losses |= repair_terms(training, networks.detector, edits[asked], at, batch.origins, batch.masks)
        if training.num_concepts > 1:
            losses["diversity"] = diversity_losses(counterfactuals, training.diversity_margin).mean()
            losses["overlap"] = overlap_losses(outliers, counterfactuals).mean()
    return {name: value for name, value in losses.items() if getattr(training, name) > 0}
