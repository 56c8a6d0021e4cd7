"""One batch of the counterfactual game and the generator's losses on it (method: losses, mendings a-i)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.detectors.network import Detector
from cfexplain.engine.distributed import Ranks
from cfexplain.explanation.spec import Fit
from cfexplain.losses import diversity_losses, l1_distances, matching_loss, overlap_losses, score_losses
from cfexplain.nets.blocks import NoiseLike


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
