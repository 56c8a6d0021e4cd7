"""Taking over a detector that is trained already: check it, find its direction and scale, set the threshold."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfexplain.data.exposures.cutpaste import paste
from cfexplain.detectors.base import build_detector, Detector, batched_on_cpu, logits_of
from cfexplain.detectors.external.conformance import check_conformance
from cfexplain.detectors.external.network import NUM_PROBES
from cfexplain.detectors.external.spec import External, HigherIs
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import CfexplainWarning, DataError
from cfexplain.lazy import no_grad, Tensor, torch
from cfexplain.types import ImageShape, Splits

NUM_COMPARED = 512  # images of each kind that decide the direction
MIN_FOUND = 0.05  # share of the anomalies above a threshold that 5 % of the normals are above: less is no detector
UNCHANGED = 0.05  # how far logits may be from those at adoption: another machine rounds otherwise


@dataclass(frozen=True, kw_only=True)
class CalibratedExternal:
    """message: what was found, in one line."""

    detector: Detector
    message: str


def calibrate_external(
    spec: External, encoder: EncoderSpec, splits: Splits, seed: int, device: torch.device
) -> CalibratedExternal:
    """Frozen and calibrated on splits.held_out. DataError, ConfigError: one line for each way not to conform."""
    detector = build_detector(spec, encoder, splits.image_shape, seed).to(device).eval().requires_grad_(False)
    normals = splits.held_out.images
    if splits.exposure is None:
        of_what, anomalies = "altered normal images", pseudo_anomalies(normals[:NUM_COMPARED], seed)
    else:
        of_what, anomalies = "exposure images", splits.exposure.images[:NUM_COMPARED]
    check_conformance(detector.encoder, normals, anomalies)
    normal_scores = batched_on_cpu(detector.embed, normals, device)[:, 0]
    anomalous_scores = batched_on_cpu(detector.embed, anomalies, device)[:, 0]
    for scores in (normal_scores, anomalous_scores):
        if not scores.isfinite().all():
            num_bad = int((~scores.isfinite()).sum())
            raise DataError(f"{spec.source} gives NaN or infinite scores to {num_bad} of {len(scores)} images; mend "
                            "the network")
    higher = is_higher_anomalous(normal_scores[:NUM_COMPARED], anomalous_scores, spec.higher_is, spec.source, of_what)
    found = calibrated(normal_scores, higher, spec.source)
    detector.centre.fill_(found.centre)
    detector.scale.fill_(found.scale)
    logits = logits_of(detector, normals, device)
    detector.threshold.fill_(logits.double().quantile(CENTRE_QUANTILE).item())
    share = (logits_of(detector, anomalies, device) > detector.threshold.cpu()).double().mean().item()
    if share <= MIN_FOUND:
        raise DataError(f"{spec.source} finds {share:.0%} of the {of_what} at a threshold that 5 % of the normal "
                        "images lie above: it does not tell them apart; check detector.higher_is, value_range, mean "
                        "and std, or take another exposure=...")
    detector.encoder.probe.copy_(_probe_logits(detector, splits.image_shape))
    direction = "higher" if higher else "lower"
    return CalibratedExternal(detector=detector, message=(
        f"{spec.source} conforms: {direction} is anomalous, threshold at {found.centre:.4g}, above it 5 % of "
        f"{len(normals)} held-out normals and {share:.0%} of {len(anomalies)} {of_what}"
    ))


def check_unchanged(detector: Detector, image_shape: ImageShape, path: Path, remedy: str) -> None:
    """DataError where a detector that was loaded again scores otherwise than the one that was adopted.

    Its weights lie in the checkpoint and a file of the network beside it, but a factory's code may have changed.
    """
    before, now = detector.encoder.probe.cpu(), _probe_logits(detector, image_shape).cpu()
    if not torch.allclose(now, before, rtol=UNCHANGED, atol=UNCHANGED, equal_nan=True):
        raise DataError(f"{detector.spec.source} scores otherwise than when {path} was made; bring its code back to "
                        f"what it was then, or {remedy}")


@no_grad
def _probe_logits(detector: Detector, image_shape: ImageShape) -> Tensor:
    """(NUM_PROBES,) logits of images that are always the same: noise."""
    images = torch.rand(NUM_PROBES, *image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return detector.log_probs(images.to(detector.centre.device)).logit


CENTRE_QUANTILE, MEDIAN_LOGIT = 0.95, math.log(9)  # phi of the median normal is 0.1
CLEAR = 0.1  # how far the AuROC must be from 0.5 to tell a direction
TYPE_IT = "say it: detector.higher_is=anomalous or detector.higher_is=normal"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """centre: a raw score; scale: raw score per unit of the logit, negative where a low score is anomalous."""

    centre: float
    scale: float


def calibrated(normals: Tensor, is_higher_anomalous: bool, source: str) -> Calibration:
    """From the raw scores (M,) of held-out normals. DataError where they do not vary."""
    sign = 1.0 if is_higher_anomalous else -1.0
    scores = sign * normals.double()
    centre = scores.quantile(CENTRE_QUANTILE).item()
    spread = centre - scores.median().item()
    least = 1e-6 * float(scores.abs().max())
    if spread <= least:  # more than half of them share the highest score, or nearly
        spread = scores.std().item()
    if spread <= least:
        raise DataError(f"{source} gives all {len(normals)} held-out normal images the same score ({normals[0]:.4g}), "
                        "so there is no threshold to find; let it give its score before it is rounded or clamped")
    return Calibration(centre=sign * centre, scale=sign * spread / MEDIAN_LOGIT)


def is_higher_anomalous(normals: Tensor, anomalies: Tensor, higher_is: HigherIs, source: str, of_what: str) -> bool:
    """From raw scores (M,) and (N,). `auto`: the AuROC decides, or DataError where it is not clear.

    of_what: the anomalies' name in messages.
    """
    found = share_of_pairs(normals, anomalies)
    said = f"{source} scores {of_what} above held-out normal images in {found:.0%} of the pairs"
    if higher_is is HigherIs.auto:
        if abs(found - 0.5) < CLEAR:
            raise DataError(f"{said}, which tells no direction; {TYPE_IT}, or check detector.value_range, mean and std")
        return found > 0.5
    wanted = higher_is is HigherIs.anomalous
    if (found - 0.5) * (1 if wanted else -1) < -CLEAR:
        message = f"{said}, and detector.higher_is={higher_is.value} says otherwise"
        warnings.warn(message, CfexplainWarning, stacklevel=2)
    return wanted


def share_of_pairs(low: Tensor, high: Tensor) -> float:
    """(M,), (N,) -> the share of pairs in which `high` is higher, ties counting half: the AuROC."""
    difference = high.double()[:, None] - low.double()[None]
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()


def pseudo_anomalies(normals: Tensor, seed: int) -> Tensor:
    """(N, C, H, W) uint8 normals -> the same, each with a third of itself inverted and pasted at another place."""
    rng = np.random.default_rng([seed, 4])
    height, width = (max(1, size // 3) for size in normals.shape[2:])
    made = []
    for image in normals.numpy():
        top, left = rng.integers(image.shape[1] - height + 1), rng.integers(image.shape[2] - width + 1)
        made.append(paste(image, 255 - image[:, top : top + height, left : left + width], 0.0, rng))
    return torch.from_numpy(np.stack(made))
