"""Is the part repaired to what it truly was? Known of pseudo-anomalies: each is made of a normal image, its origin.

They are made of held-out normal images, in ways that the run was not trained on, so that neither the image nor the kind
of damage is known to the generator. PSNR and SSIM (Wang et al., 2004) of the counterfactual against the origin, minus
those of the damaged image itself: who does nothing gains 0, and who does more than to repair loses outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cfexplain.checks import check_positive
from cfexplain.data.exposures.base import ExposureSpec, PseudoAnomalies
from cfexplain.data.exposures.mixed import Mixed
from cfexplain.engine.seeding import step_generator
from cfexplain.lazy import image_metrics, Tensor, torch
from cfexplain.metrics.base import IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval, shares_of_concepts
from cfexplain.types import ImageSet, PairMaker

LEAST_ERROR = 0.25  # squared levels: half a level, which rounding may cost. It bounds the PSNR of a perfect repair
PART = 64  # images whose SSIM is taken at a time


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Of N damaged images and K repairs of each, (N, K) float64.

    psnr:         dB inside the mask, of the repair over the damaged image; the mean squared errors are at least 0.25
                  squared levels, so that a perfect repair's is finite.
    psnr_outside: dB of the whole image, of the damaged image with the repair's pixels outside the mask over the damaged
                  image itself: 0 where nothing changes outside, and negative. Of the outside alone the damaged image's
                  PSNR is infinite, and any change's loss with it; so what is done there is weighed against the damage.
    ssim:         of the whole image, of the repair over the damaged image.
    """

    psnr: np.ndarray
    psnr_outside: np.ndarray
    ssim: np.ndarray


def gains(origins: Tensor, damaged: Tensor, masks: Tensor, repaired: Tensor) -> Gains:
    """origins, damaged: (N, C, H, W) uint8; masks: (N, H, W) bool, none empty; repaired: (N, K, C, H, W) uint8."""
    psnr, psnr_outside = np.empty((2, *repaired.shape[:2]))
    for row, (origin, before, mask, after) in enumerate(zip(origins, damaged, masks, repaired, strict=True)):
        errors = (torch.cat([before[None], after]).double() - origin.double()).square().mean(dim=1)  # (1 + K, H, W)
        inside = errors[:, mask].mean(dim=1).clamp_min(LEAST_ERROR).numpy()
        psnr[row] = 10 * np.log10(inside[0] / inside[1:])
        total, outside = errors[0].sum().item(), errors[:, ~mask].sum(dim=1).numpy()
        psnr_outside[row] = -10 * np.log10((total - outside[0] + outside[1:]) / total)
    ssims = np.stack([ssim(repairs, origins) for repairs in repaired.unbind(dim=1)], axis=1)
    return Gains(psnr=psnr, psnr_outside=psnr_outside, ssim=ssims - ssim(damaged, origins)[:, None])


def ssim(images: Tensor, origins: Tensor) -> np.ndarray:
    """(N,) float64 of (N, C, H, W) uint8 each."""
    parts = [
        image_metrics.structural_similarity_index_measure(
            image.float(), origin.float(), data_range=255.0, reduction="none"
        )
        for image, origin in zip(images.split(PART), origins.split(PART), strict=True)
    ]
    return torch.cat(parts).double().numpy()


def trained_kinds(fresh: PairMaker | None) -> set[type]:
    """Classes of the pseudo-anomalies that a run was trained on; of a mixture those of its parts."""

    def kinds_of(spec: ExposureSpec) -> set[type]:
        if isinstance(spec, Mixed):
            return set().union(*(kinds_of(kind) for kind in spec.kinds.values()))
        return {type(spec)}

    return set() if fresh is None else kinds_of(fresh.__self__)  # a method of the exposure's spec


@dataclass(frozen=True, kw_only=True)
class Restoration(IntervalMetricSpec):
    """restoration_* keys; nothing where anomalies are no defects of a part.

    num_images: held-out normal images, at most, of which one pseudo-anomaly of each kind is made.
    kinds:      by any name; those of a class that the run was trained on are left out. Their own `limit` and `seed` are
                not used: the run's seed draws.
    """

    meanings = {
        "restoration_psnr_gain": ("dB nearer to the truth inside the damage, kinds never trained on", "high"),
        "restoration_psnr_gain_blobs": ("the same of blobs", "high"),
        "restoration_psnr_gain_confetti": ("the same of confetti", "high"),
        "restoration_psnr_gain_cutpaste": ("the same of cutpaste", "high"),
        "restoration_psnr_gain_scratches": ("the same of scratches", "high"),
        "restoration_psnr_gain_dents": ("the same of dents", "high"),
        "restoration_psnr_outside": ("dB that changes outside the damage cost the whole image", "0"),
        "restoration_ssim_gain": ("SSIM nearer to the truth, whole image", "high"),
        "restoration_images": ("pseudo-anomalies repaired", ""),
    }

    num_images: int
    kinds: dict[str, PseudoAnomalies]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_images")
        if not self.kinds:
            raise ValueError("kinds must name at least one kind of pseudo-anomalies, like confetti")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        if not inputs.is_of_defects:
            return {}
        trained = trained_kinds(inputs.splits.fresh)
        kinds = {name: spec for name, spec in self.kinds.items() if not trained_kinds(spec.fresh) & trained}
        if not kinds:
            tell_reader("restoration left out: the run was trained on each kind of metric.restoration.kinds")
            return {}
        generator = step_generator(inputs.seed, 0, "restoration")
        held_out = inputs.splits.held_out
        origins = held_out.select(torch.randperm(len(held_out), generator=generator)[: self.num_images])
        found = [_gains_on(spec, origins, inputs, generator) for spec in kinds.values()]
        parts = {
            "psnr_gain": np.stack([each.psnr for each in found], axis=1),  # (N, kinds, K): an origin's go together
            "psnr_outside": np.stack([each.psnr_outside for each in found], axis=1),
            "ssim_gain": np.stack([each.ssim for each in found], axis=1),
        }
        was_made = ~np.isnan(parts["psnr_gain"])
        values: dict[str, float | str] = {"restoration_images": float(was_made[..., 0].sum())}
        for name, part in parts.items():
            values |= shares_of_concepts(
                f"restoration_{name}", np.nan_to_num(part), inputs.seed, self.num_resamples, among=was_made
            )
        for number, kind in enumerate(kinds):
            values |= share_with_interval(
                f"restoration_psnr_gain_{kind}", np.nan_to_num(parts["psnr_gain"][:, number]), inputs.seed,
                self.num_resamples, among=was_made[:, number],
            )
        return values


def _gains_on(
    spec: PseudoAnomalies, origins: ImageSet, inputs: MetricInputs, generator: torch.Generator
) -> Gains:
    """(N, K) each; NaN where nothing shows of what was done to the image."""
    damaged, masks = spec.altered(origins.images, generator)
    shows = masks.flatten(1).any(dim=1)
    chosen = replace(origins.select(shows), images=damaged[shows], masks=None)
    made = gains(origins.images[shows], chosen.images, masks[shows], inputs.explain(chosen).counterfactuals)

    def of_all(values: np.ndarray) -> np.ndarray:
        filled = np.full((len(origins), values.shape[1]), np.nan)
        filled[shows.numpy()] = values
        return filled

    return Gains(psnr=of_all(made.psnr), psnr_outside=of_all(made.psnr_outside), ssim=of_all(made.ssim))
