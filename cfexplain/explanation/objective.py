"""The objective of the counterfactual game: its values, with a weight for each loss, and the losses as pure functions.

Losses give one value per sample unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cfexplain.checks import check_at_least, check_positive
from cfexplain.detectors.base import Detector
from cfexplain.generators.base import Region, TrainedGeneratorSpec
from cfexplain.generators.blocks import DirectionClassifier
from cfexplain.lazy import F, nn, Tensor, torch
from cfexplain.types import ImageShape


QUARTILES_APART = 1.349  # of a normal distribution, in standard deviations
MIN_DEVIATION = 1e-3  # of normal images' logits: less is no measure of a distance


class ConceptView(Enum):
    pair = "pair"
    direction = "direction"


@dataclass(frozen=True, kw_only=True)
class GeneratorTraining:
    """Training of generator, discriminator and concept classifier. A weight of 0 leaves a loss out.

    num_alpha_bins: n; bin a stands for the wanted score a / (n - 1).
    decay:          share of the steps, the last ones, over which the learning rates fall in a straight line to 0.
    score_stop:     the score loss of alpha = 0 ends at the held-out normals' mean level.
    score_noise:    standard deviation of the noise on an edited image before the detector sees it, in [-1, 1] units;
                    None: as much as this detector's normals bear.
    reconstruction: L1 distance to the source, where nothing is to change and after the way back, G(G(x, a, k), b, k).
    cycle:          share of the way back in it, 1 in the paper. 0: no way back, for defects: what is normal cannot tell
                    what they looked like.
    matching:       1-D Wasserstein distance of the logits of counterfactuals and held-out normals.
    pull:           L1 distance of counterfactual and source.
    diversity:      hinge on the pooled L1 distance between the concepts' counterfactuals, up to `diversity_margin`.
    overlap:        squared cosine between the concepts' edits.
    repair:         distance of the counterfactual of a pseudo-anomaly to the normal image it was made of: what is drawn
                    where that was altered, `repair_whole` times the counterfactual as a whole and `repair_drawn` times
                    what is drawn as a whole, so that a region that is too large does no harm.
    perceptual:     distance of its features to that image's, of a detector on a network with given weights.
    region:         how far the generator's region is from where pseudo-anomalies were altered, if it has one.
    concept_classifier: `pair`, the paper's deep network on both images, or `direction`, linear on the coarse edit.
    concept_grid, concept_noise: of `direction`: cells a side that the edit is averaged over; noise on its direction.
    """

    steps: int
    batch_size: int
    num_concepts: int
    num_alpha_bins: int
    learning_rate: float
    discriminator_learning_rate: float
    decay: float
    beta_1: float
    beta_2: float
    ema_decay: float
    adversarial: float
    score: float
    score_stop: bool
    score_noise: float | None
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
    repair: float
    repair_whole: float
    repair_drawn: float
    perceptual: float
    region: float
    log_every_steps: int
    image_every_steps: int
    checkpoint_every_steps: int

    def __post_init__(self) -> None:
        check_at_least(
            self, batch_size=2, num_alpha_bins=2, num_concepts=1, steps=1, log_every_steps=1, image_every_steps=1,
            checkpoint_every_steps=1, concept_grid=1, decay=0, adversarial=0, score=0, matching=0, reconstruction=0,
            cycle=0, concept=0, concept_noise=0, pull=0, diversity=0, diversity_margin=0, overlap=0,
            repair=0, repair_whole=0, repair_drawn=0, perceptual=0, region=0,
        )
        check_positive(self, "learning_rate", "discriminator_learning_rate")
        for name in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.decay > 1:
            raise ValueError(f"decay is a share of the steps, at most 1, got {self.decay}")

    def learning_rates(self, step: int) -> tuple[float, float]:
        """Of G and R, and of D, in the step after `step` ones."""
        decay_steps = self.decay * self.steps
        factor = min(1.0, (self.steps - step) / decay_steps) if decay_steps > 0 else 1.0
        return factor * self.learning_rate, factor * self.discriminator_learning_rate

    def adam(self, network: nn.Module, rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), rate, (self.beta_1, self.beta_2), fused=True)

    @property
    def orders_pairs(self) -> bool:
        """Whether R sees (more anomalous, less anomalous) images instead of the paper's (source, edited) ones."""
        return self.concept_classifier is ConceptView.direction

    @property
    def compares_concepts(self) -> bool:
        """Whether a loss looks at the counterfactuals of one image under all concepts."""
        has_several = self.num_concepts > 1 and (self.diversity > 0 or self.overlap > 0)
        of_outliers = (self.matching, self.pull, self.repair, self.perceptual, self.region)
        return any(weight > 0 for weight in of_outliers) or has_several


def build_concept_classifier(
    spec: TrainedGeneratorSpec, training: GeneratorTraining, image_shape: ImageShape
) -> nn.Module:
    """R(source, edited, noise=None) -> (N, K) logits, as fit.concept_classifier says."""
    if training.concept_classifier is ConceptView.pair:
        return spec.build_pair_classifier(image_shape, training.num_concepts)
    return DirectionClassifier(
        image_shape[0], training.num_concepts, training.concept_grid, training.concept_noise
    )


def hinge_losses(logits: Tensor, is_real: bool) -> Tensor:
    """max(0, 1 - D(x)) of real images, max(0, 1 + D(x)) of edited ones: (N,) -> (N,) (Miyato et al., 2018)."""
    return F.relu(1 - logits) if is_real else F.relu(1 + logits)


def score_losses(log_anomalous: Tensor, log_normal: Tensor, alphas: Tensor, stop: float | None = None) -> Tensor:
    """Cross-entropy of the reached score against the wanted one: -[alpha log phi + (1 - alpha) log(1 - phi)].

    log_anomalous, log_normal, alphas: (N,); alphas in [0, 1].
    stop: for alpha = 0, the normals' own level kappa; below it the loss is 0. Without it (None, the paper's form) the
          counterfactuals go on to become more normal than normal images.
    """
    losses = -(alphas * log_anomalous + (1 - alphas) * log_normal)
    return losses if stop is None else torch.where(alphas == 0, F.relu(losses - stop), losses)


def l1_distances(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of each pair: (N, ...), (N, ...) -> (N,)."""
    return (images - others).abs().flatten(1).mean(dim=1)


def repair_terms(
    training: GeneratorTraining, detector: Detector, repaired: Tensor, region: Region | None, origins: Tensor,
    masks: Tensor,
) -> dict[str, Tensor]:
    """The terms of pseudo-anomalies, whose origins are known: repair, perceptual, and region where G has one.

    repaired: (N K, C, H, W), and region: of each pseudo-anomaly under each concept; origins: (N, C, H, W); masks:
              (N, H, W).
    """
    origins, masks = (part.repeat_interleave(training.num_concepts, 0) for part in (origins, masks))
    drawn = repaired if region is None else region.drawn
    whole, drawn_whole = training.repair_whole, training.repair_drawn
    terms = {"repair": repair_loss(repaired, drawn, origins, masks, whole, drawn_whole)}
    if training.perceptual > 0:
        maps = (detector.feature_maps(images) for images in (repaired, origins))
        terms["perceptual"] = perceptual_losses(*maps).mean()
    if region is not None:
        terms["region"] = region_losses(region.logits, masks).mean()
    return terms


def repair_loss(
    repaired: Tensor, drawn: Tensor, origins: Tensor, masks: Tensor, whole: float, drawn_whole: float
) -> Tensor:
    """Distance of repaired images to the normal ones that were altered, ().

    That of drawn ones within the masks, over the pixels of all of them, + whole * that of repaired images + drawn_whole
    * that of drawn ones, over all pixels. A drawn pixel's distance is that of its value and of its steps to the
    neighbours right and below, so that edges count; a repaired one's that of its value.

    repaired, drawn, origins: (N, C, H, W); masks: (N, H, W) bool.
    """
    difference = drawn - origins
    distances = difference.abs().mean(dim=1)
    for dim, padding in ((2, (0, 0, 0, 1)), (3, (0, 1))):
        distances = distances + F.pad(difference.diff(dim=dim), padding).abs().mean(dim=1)
    inside = (masks * distances).sum() / masks.sum().clamp_min(1)
    return inside + whole * l1_distances(repaired, origins).mean() + drawn_whole * distances.mean()


def perceptual_losses(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Squared distance of feature vectors of length 1, mean over places, then over the layers: (N,), between 0 and 4.

    features, others: a map (N, F, H, W) of each layer. As LPIPS (Zhang et al., 2018) without learnt weights.
    """
    distances = [
        (F.normalize(ours.float(), dim=1) - F.normalize(theirs.float(), dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        for ours, theirs in zip(features, others, strict=True)
    ]
    return torch.stack(distances).mean(dim=0)


def region_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """How far a region is from the masks, (N,): focal loss (Lin et al., 2017) and Dice loss (Milletari et al., 2016).

    logits: (N, 1, H, W); masks: (N, H, W) bool. Most pixels belong to no mask: the focal loss, squared and times 10,
    leaves those that are sure alone; the Dice loss does not depend on a mask's size.
    """
    logits, masks = logits.flatten(1), masks.flatten(1).to(logits)
    cross_entropies = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    focal = ((1 - (-cross_entropies).exp()).square() * cross_entropies).mean(dim=1)
    region = logits.sigmoid()
    dice = 1 - (2 * (region * masks).sum(dim=1) + 1) / (region.sum(dim=1) + masks.sum(dim=1) + 1)
    return 10 * focal + dice


def matching_loss(logits: Tensor, quantiles: Tensor) -> Tensor:
    """1-D Wasserstein distance of a sample to a distribution that is given by as many quantiles: ().

    quantiles: (N,) rising, at the middles of N equal shares. The distance of sorted values is the exact optimal
    transport cost on a line, here in standard deviations of a normal distribution with the same quartiles. It is 0
    where the counterfactuals score like normal images, the harder ones included; so it aims at a counterfactual AuROC
    of 0.5 and not below.
    """
    assert logits.shape == quantiles.shape, (logits.shape, quantiles.shape)
    quarter = len(quantiles) // 4
    scale = (quantiles[-1 - quarter] - quantiles[quarter]) / QUARTILES_APART
    scale = torch.where(scale > MIN_DEVIATION, scale, 1.0)  # so few normal images that they are alike: in logits
    return (logits.sort().values - quantiles).abs().mean() / scale


def diversity_losses(counterfactuals: Tensor, margin: float, pool: int = 4) -> Tensor:
    """How much the counterfactuals of one source look alike, after average pooling so that fine marks do not count.

    counterfactuals: (N, K, C, H, W).  returns: (N,), max(0, margin - L1 distance) averaged over pairs of concepts.
    """
    n, num_concepts = counterfactuals.shape[:2]
    pooled = F.avg_pool2d(counterfactuals.flatten(0, 1), pool, ceil_mode=True).unflatten(0, (n, num_concepts))
    first, second = torch.triu_indices(num_concepts, num_concepts, offset=1, device=counterfactuals.device)
    distances = (pooled[:, first] - pooled[:, second]).abs().flatten(2).mean(dim=2)  # (N, pairs)
    return F.relu(margin - distances).mean(dim=1)


def overlap_losses(sources: Tensor, counterfactuals: Tensor, eps: float = 1e-2) -> Tensor:
    """Squared cosine between the edits of different concepts: edits should not undo or repeat one another.

    sources: (N, C, H, W); counterfactuals: (N, K, C, H, W).  returns: (N,) in [0, 1], mean over pairs of concepts.
    """
    edits = (counterfactuals - sources[:, None]).flatten(2)  # (N, K, C*H*W)
    edits = edits / (edits.norm(dim=2, keepdim=True) + eps)
    cosines = edits @ edits.transpose(1, 2)  # (N, K, K)
    first, second = torch.triu_indices(edits.shape[1], edits.shape[1], offset=1, device=edits.device)
    return cosines[:, first, second].square().mean(dim=1)


def noisy(images: Tensor, standard_deviation: float, noise: torch.Generator) -> Tensor:
    """Gaussian noise on images before the detector sees them: an edit that noise undoes earns nothing."""
    if standard_deviation == 0:
        return images
    drawn = torch.randn(images.shape, generator=noise, device=noise.device)
    return images + standard_deviation * drawn.to(images)


def as_directions(pairs: tuple[Tensor, Tensor], is_rising: Tensor) -> tuple[Tensor, Tensor]:
    """(source, edited) images as (more anomalous, less anomalous).

    A linear R is odd in the edit: a way back, which undoes an edit, would have to show the opposite concept.
    """
    source, edited = pairs
    swapped = is_rising[:, None, None, None]
    return torch.where(swapped, edited, source), torch.where(swapped, source, edited)
