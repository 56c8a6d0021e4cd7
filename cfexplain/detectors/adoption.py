"""Taking over a detector that is trained already: check it, find its direction and scale, set the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cfexplain.detectors.calibration import CENTRE_QUANTILE, calibrated, is_higher_anomalous, pseudo_anomalies
from cfexplain.detectors.conformance import check_conformance
from cfexplain.detectors.external import External
from cfexplain.detectors.external_network import NUM_PROBES
from cfexplain.detectors.network import Detector, build_detector, in_batches, logits_of
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import DataError
from cfexplain.types import ImageShape, Splits

NUM_COMPARED = 512  # images of each kind that decide the direction
MIN_FOUND = 0.05  # share of the anomalies above a threshold that 5 % of the normals are above: less is no detector
UNCHANGED = 0.05  # how far logits may be from those at adoption: another machine rounds otherwise


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """said: what was found, in one line."""

    detector: Detector
    said: str


def adopt_detector(
    spec: External, encoder: EncoderSpec, splits: Splits, seed: int, device: torch.device
) -> Adopted:
    """Frozen and calibrated on splits.held_out. DataError, ConfigError: one line for each way not to conform."""
    detector = build_detector(spec, encoder, splits.image_shape, seed).to(device).eval().requires_grad_(False)
    normals = splits.held_out.images
    if splits.exposure is None:
        of_what, anomalies = "altered normal images", pseudo_anomalies(normals[:NUM_COMPARED], seed)
    else:
        of_what, anomalies = "exposure images", splits.exposure.images[:NUM_COMPARED]
    check_conformance(detector.encoder, normals, anomalies)
    normal_scores = in_batches(detector.embed, normals, device)[:, 0]
    anomalous_scores = in_batches(detector.embed, anomalies, device)[:, 0]
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
    return Adopted(detector=detector, said=(
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


@torch.no_grad()
def _probe_logits(detector: Detector, image_shape: ImageShape) -> Tensor:
    """(NUM_PROBES,) logits of images that are always the same: noise."""
    images = torch.rand(NUM_PROBES, *image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return detector.log_probs(images.to(detector.centre.device)).logit
