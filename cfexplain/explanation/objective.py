"""One batch of the counterfactual game and the generator's losses on it (method: losses, mendings a-i)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfexplain.detectors.network import Detector
from cfexplain.explanation.spec import Fit
from cfexplain.losses import diversity_losses, l1_distances, matching_loss, overlap_losses, score_losses


KEPT, CHANGED = slice(0, None, 2), slice(1, None, 2)  # rows of a batch that keep their bin, and that change it


@dataclass(frozen=True, kw_only=True)
class Edits:
    """Edited images with what was asked of them; the first N are the batch's own, then K versions of each outlier.

    images: (M, C, H, W); sources: (M, C, H, W); target_bins, concepts: (M,).
    concept_sets: (N - num_normals, K, C, H, W) counterfactuals (alpha = 0) of the batch's outliers, or None.
    """

    images: Tensor
    sources: Tensor
    target_bins: Tensor
    concepts: Tensor
    concept_sets: Tensor | None

    @property
    def concept_rows(self) -> Tensor:
        """Indices of the pairs whose edit was asked to change something; the others carry no concept."""
        num_sets = 0 if self.concept_sets is None else self.concept_sets.shape[0] * self.concept_sets.shape[1]
        num_own = len(self.images) - num_sets
        rows = [torch.arange(num_own)[CHANGED], torch.arange(num_own, len(self.images))]
        return torch.cat(rows).to(self.images.device)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """sources: (N, C, H, W) in [-1, 1], normals first; source_bins, target_bins, concepts: (N,) int64.

    held_out: (N - num_normals, C, H, W) held-out normal images, whose scores the counterfactuals are to match.
    """

    sources: Tensor
    source_bins: Tensor
    target_bins: Tensor
    concepts: Tensor
    num_normals: int
    held_out: Tensor
    noise: torch.Generator

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
            images=images, sources=sources, target_bins=target_bins, concepts=concepts, concept_sets=sets
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
    cycles = generator(own[CHANGED], batch.source_bins[CHANGED], batch.concepts[CHANGED])
    log_probs = detector.log_probs(noisy(torch.cat([edits.images, cycles]), fit.score_noise, batch.noise))
    num_edits = len(edits.images)
    alphas = torch.cat([edits.target_bins, batch.source_bins[CHANGED]]) / (fit.num_alpha_bins - 1)

    losses = {
        "adversarial": -discriminator(edits.images, edits.target_bins).mean(),
        "score": score_losses(log_probs.log_anomalous, log_probs.log_normal, alphas, score_stop).mean(),
        "reconstruction": l1_distances(own[KEPT], batch.sources[KEPT]).mean()
        + l1_distances(cycles, batch.sources[CHANGED]).mean(),
    }
    rows = edits.concept_rows
    pair_sources, pair_images = torch.cat([edits.sources[rows], own[CHANGED]]), torch.cat([edits.images[rows], cycles])
    pair_concepts = torch.cat([edits.concepts[rows], batch.concepts[CHANGED]])
    losses["concept"] = F.cross_entropy(concept_classifier(pair_sources, pair_images, batch.noise), pair_concepts)
    if edits.concept_sets is not None:
        outliers = batch.sources[batch.num_normals :]
        # Each concept for itself. Matching their mixture let both concepts turn red (purity 0.15 instead of 0.79).
        set_logits = log_probs.logit[n:num_edits].unflatten(0, (len(outliers), fit.num_concepts))  # (N, K)
        with torch.no_grad():  # under the same noise: clean normals would ask for more than they score themselves
            normal_logits = detector.log_probs(noisy(batch.held_out, fit.score_noise, batch.noise)).logit
        per_concept = [matching_loss(set_logits[:, k], normal_logits) for k in range(fit.num_concepts)]
        losses["matching"] = torch.stack(per_concept).mean()
        losses["pull"] = l1_distances(edits.images[n:], edits.sources[n:]).mean()
        if fit.num_concepts > 1:
            losses["diversity"] = diversity_losses(edits.concept_sets, fit.diversity_margin).mean()
            losses["overlap"] = overlap_losses(outliers, edits.concept_sets).mean()
    return {name: value for name, value in losses.items() if getattr(fit, name) > 0}


def noisy(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise on images before the detector sees them: an edit that noise undoes earns nothing."""
    if noise == 0:
        return images
    return images + noise * torch.randn(images.shape, generator=generator).to(images)
