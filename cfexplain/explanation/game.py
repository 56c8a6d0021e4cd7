"""Training the counterfactual generator: in each step D learns first, then R, then G."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cfexplain.data.augmentation import augmented
from cfexplain.data.base import rows, to_float
from cfexplain.detectors.base import Detector, in_batches, logits_of
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.loop import Learner, train
from cfexplain.engine.seeding import derived_seed, step_generator
from cfexplain.errors import ConfigError
from cfexplain.explanation.explain import FittedModel
from cfexplain.explanation.losses import diversity_losses, l1_distances, matching_loss, overlap_losses, score_losses
from cfexplain.generators.base import GeneratorSpec
from cfexplain.generators.blocks import DirectionClassifier, NoiseLike
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape, Splits, Tick


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

    @no_grad
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


class ConceptView(Enum):
    pair = "pair"
    direction = "direction"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Training of generator, discriminator and concept classifier. A weight of 0 leaves a loss out.

    num_alpha_bins: n; bin a stands for the wanted score a / (n - 1).
    score_stop:     the score loss of alpha = 0 ends at the held-out normals' mean level.
    score_noise:    standard deviation of the noise on an edited image before the detector sees it, in [-1, 1] units.
    reconstruction: L1 distance to the source, where nothing is to change and after the way back, G(G(x, a, k), b, k).
    cycle:          share of the way back in it, 1 in the paper. 0: no way back, for defects: what is normal cannot tell
                    what they looked like.
    matching:       1-D Wasserstein distance of the logits of counterfactuals and held-out normals.
    pull:           L1 distance of counterfactual and source.
    diversity:      hinge on the pooled L1 distance between the concepts' counterfactuals, up to `diversity_margin`.
    overlap:        squared cosine between the concepts' edits.
    concept_classifier: `pair`, the paper's deep network on both images, or `direction`, linear on the coarse edit.
    concept_grid, concept_noise: of `direction`: cells a side that the edit is averaged over; noise on its direction.
    """

    steps: int
    batch_size: int
    num_concepts: int
    num_alpha_bins: int
    learning_rate: float
    discriminator_learning_rate: float
    beta_1: float
    beta_2: float
    ema_decay: float
    adversarial: float
    score: float
    score_stop: bool
    score_noise: float
    matching: float
    reconstruction: float
    cycle: float
    concept: float
    concept_classifier: ConceptView
    concept_grid: int
    concept_noise: float
    pull: float
    diversity: float
    diversity_margin: float
    overlap: float
    log_every_steps: int
    image_every_steps: int
    checkpoint_every_steps: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_concepts", "num_alpha_bins"):
            if getattr(self, name) < (1 if name == "num_concepts" else 2):
                raise ValueError(f"{name} is too small: {getattr(self, name)}")
        for name in ("steps", "log_every_steps", "image_every_steps", "checkpoint_every_steps", "concept_grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "discriminator_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        weights = ("adversarial", "score", "score_noise", "matching", "reconstruction", "cycle", "concept",
                   "concept_noise", "pull", "diversity", "diversity_margin", "overlap")
        for name in weights:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


KEPT, CHANGED = slice(0, None, 2), slice(1, None, 2)  # rows of a batch that keep their bin, and that change it
NONE = slice(0, 0)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard normal noise of a step, drawn for the whole batch, of which a rank takes what belongs to its part."""

    generator: torch.Generator
    ranks: Ranks

    def on(self, *blocks: int) -> NoiseLike:
        """For tensors of so many consecutive rows from each of the groups that are divided among the ranks."""

        def like(values: Tensor) -> Tensor:
            size = self.ranks.size
            drawn = torch.randn((size * len(values), *values.shape[1:]), generator=self.generator)
            return self.ranks.part(drawn, *(size * block for block in blocks)).to(values)

        return like


@dataclass(frozen=True, kw_only=True)
class Edits:
    """Edited images with what was asked of them; the first N are the batch's own, then K versions of each outlier.

    images: (M, C, H, W); sources: (M, C, H, W); target_bins, concepts: (M,).
    concept_sets: (N - num_normals, K, C, H, W) counterfactuals (alpha = 0) of the batch's outliers, or None.
    blocks: numbers of edits of normals, of outliers, and of the versions in concept_sets.
    """

    images: Tensor
    sources: Tensor
    target_bins: Tensor
    concepts: Tensor
    concept_sets: Tensor | None
    blocks: tuple[int, int, int]

    @property
    def concept_rows(self) -> Tensor:
        """Indices of the pairs whose edit was asked to change something; the others carry no concept."""
        num_own = len(self.images) - self.blocks[2]
        rows = [torch.arange(num_own)[CHANGED], torch.arange(num_own, len(self.images))]
        return torch.cat(rows).to(self.images.device)

    @property
    def changed_blocks(self) -> tuple[int, int]:
        """Of the batch's own edits, those that were asked to change something: of normals, of outliers."""
        return self.blocks[0] // 2, self.blocks[1] // 2

    @property
    def concept_blocks(self) -> tuple[int, int, int]:
        """Those of concept_rows."""
        return *self.changed_blocks, self.blocks[2]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part: of all ranks' together, the losses are those of one process with their batches joined.

    sources: (N, C, H, W) in [-1, 1], normals first; source_bins, target_bins, concepts: (N,) int64.
    held_out: (N - num_normals, C, H, W) held-out normal images, whose scores the counterfactuals are to match.
    """

    sources: Tensor
    source_bins: Tensor
    target_bins: Tensor
    concepts: Tensor
    num_normals: int
    held_out: Tensor
    noise: Noise
    ranks: Ranks

    def edit(self, generator: nn.Module, fit: Fit) -> Edits:
        """G(x, a, k); and, where a loss compares concepts, the outliers under every concept with alpha = 0."""
        sources, target_bins, concepts = self.sources, self.target_bins, self.concepts
        compares_concepts = fit.num_concepts > 1 and (fit.diversity > 0 or fit.overlap > 0)
        needs_sets = fit.matching > 0 or fit.pull > 0 or compares_concepts
        num_outliers = len(sources) - self.num_normals
        if needs_sets:
            outliers, num_concepts = slice(self.num_normals, None), fit.num_concepts
            sources = torch.cat([sources, self.sources[outliers].repeat_interleave(num_concepts, dim=0)])
            every_concept = torch.arange(num_concepts, device=concepts.device).repeat(num_outliers)
            concepts = torch.cat([concepts, every_concept])
            target_bins = torch.cat([target_bins, torch.zeros_like(every_concept)])
        images = generator(sources, target_bins, concepts)
        sets = images[len(self.sources) :].unflatten(0, (num_outliers, fit.num_concepts)) if needs_sets else None
        return Edits(
            images=images, sources=sources, target_bins=target_bins, concepts=concepts, concept_sets=sets,
            blocks=(self.num_normals, num_outliers, len(images) - len(self.sources)),
        )


def generator_losses(
    batch: Batch,
    edits: Edits,
    generator: nn.Module,
    discriminator: nn.Module,
    concept_classifier: nn.Module,
    detector: Detector,
    fit: Fit,
    score_stop: float | None,
) -> dict[str, Tensor]:
    """The losses by the name of their weight in Fit, unweighted; those of weight 0 are left out."""
    n = len(batch.sources)
    own = edits.images[:n]
    # The way back: G(G(x, a, k), b, k). Where a = b, G(x, a, k) is itself the reconstruction.
    back = CHANGED if fit.cycle > 0 else NONE
    cycles = generator(own[back], batch.source_bins[back], batch.concepts[back]) if fit.cycle > 0 else own[back]
    back_blocks = edits.changed_blocks if fit.cycle > 0 else ()
    own_noise = batch.noise.on(*edits.blocks, *back_blocks)
    log_probs = detector.log_probs(noisy(torch.cat([edits.images, cycles]), fit.score_noise, own_noise))
    num_edits = len(edits.images)
    alphas = torch.cat([edits.target_bins, batch.source_bins[back]]) / (fit.num_alpha_bins - 1)

    losses = {
        "adversarial": -discriminator(edits.images, edits.target_bins).mean(),
        "score": score_losses(log_probs.log_anomalous, log_probs.log_normal, alphas, score_stop).mean(),
        "reconstruction": l1_distances(own[KEPT], batch.sources[KEPT]).mean(),
    }
    if fit.cycle > 0:
        losses["reconstruction"] = losses["reconstruction"] + fit.cycle * l1_distances(cycles, batch.sources[back]).mean()
    rows = edits.concept_rows
    pair_sources, pair_images = torch.cat([edits.sources[rows], own[back]]), torch.cat([edits.images[rows], cycles])
    pair_concepts = torch.cat([edits.concepts[rows], batch.concepts[back]])
    pair_noise = batch.noise.on(*edits.concept_blocks, *back_blocks)
    losses["concept"] = F.cross_entropy(concept_classifier(pair_sources, pair_images, pair_noise), pair_concepts)
    if edits.concept_sets is not None:
        outliers = batch.sources[batch.num_normals :]
        # Each concept for itself. Matching their mixture let both concepts turn red (purity 0.15 instead of 0.79).
        set_logits = log_probs.logit[n:num_edits].unflatten(0, (len(outliers), fit.num_concepts))  # (N, K)
        with torch.no_grad():  # under the same noise: clean normals would ask for more than they score themselves
            normal_noise = batch.noise.on(len(batch.held_out))
            normal_logits = detector.log_probs(noisy(batch.held_out, fit.score_noise, normal_noise)).logit
        # A distance of two distributions, not a mean over samples: of the whole batch, on every rank.
        set_logits, normal_logits = batch.ranks.gathered(set_logits), batch.ranks.gathered(normal_logits)
        per_concept = [matching_loss(set_logits[:, k], normal_logits) for k in range(fit.num_concepts)]
        losses["matching"] = torch.stack(per_concept).mean()
        losses["pull"] = l1_distances(edits.images[n:], edits.sources[n:]).mean()
        if fit.num_concepts > 1:
            losses["diversity"] = diversity_losses(edits.concept_sets, fit.diversity_margin).mean()
            losses["overlap"] = overlap_losses(outliers, edits.concept_sets).mean()
    return {name: value for name, value in losses.items() if getattr(fit, name) > 0}


def noisy(images: Tensor, noise: float, noise_like: NoiseLike) -> Tensor:
    """Gaussian noise on images before the detector sees them: an edit that noise undoes earns nothing."""
    if noise == 0:
        return images
    return images + noise * noise_like(images)


def build_concept_classifier(spec: GeneratorSpec, fit: Fit, image_shape: ImageShape) -> nn.Module:
    """R(source, edited, noise_like=None) -> (N, K) logits, as fit.concept_classifier says."""
    if fit.concept_classifier is ConceptView.pair:
        return spec.build_pair_classifier(image_shape, fit.num_concepts)
    return DirectionClassifier(image_shape[0], fit.num_concepts, fit.concept_grid, fit.concept_noise)
