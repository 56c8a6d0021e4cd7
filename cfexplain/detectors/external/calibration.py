"""Taking over a detector that is trained already: check it, find its direction and scale, set the threshold."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np

from cfexplain.data.batches import to_float
from cfexplain.detectors.base import batched_on_cpu, build_detector, Detector, logits_of
from cfexplain.detectors.external.sources import short
from cfexplain.detectors.external.spec import External, ExternalNetwork, HigherIs, NUM_PROBES, Score
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import CfexplainError, CfexplainWarning, DataError
from cfexplain.lazy import no_grad, stats, Tensor, torch
from cfexplain.types import ImageShape, Splits

NUM_COMPARED = 512  # images of each kind that decide the direction
MIN_FOUND = 0.05  # share of the anomalies above a threshold that 5 % of the normals are above: less is no detector
CENTRE_QUANTILE, MEDIAN_LOGIT = 0.95, math.log(9)  # phi of the median normal is 0.1
CLEAR = 0.1  # how far the AuROC must be from 0.5 to tell a direction
NUM_CHECKED = 8  # images of each kind, normal and anomalous, by which a network is checked
TOLERANCE = 0.02  # of the normal images' range of scores: TF32 on a GPU is no more exact, dropout far less
MIN_LIVE = 0.5  # share of anomalous images that must have a gradient
UNCHANGED = 0.05  # how far logits may be from those at the calibration: another machine rounds otherwise


def calibrate_external(
    spec: External, encoder: EncoderSpec, splits: Splits, seed: int, device: torch.device
) -> tuple[Detector, str]:
    """Frozen and calibrated on splits.held_out, and what was found in one line.

    DataError, ConfigError: one line for each way not to conform.
    """
    detector = build_detector(spec, encoder, splits.image_shape, seed).to(device).eval().requires_grad_(False)
    normals = splits.held_out.images
    if splits.exposure is None or splits.fresh is not None:  # pseudo-anomalies may be too faint to tell a direction
        of_what, anomalies = "altered normal images", pseudo_anomalies(normals[:NUM_COMPARED], seed)
    else:
        of_what, anomalies = "exposure images", splits.exposure.images[:NUM_COMPARED]
    check_conformance(detector.encoder, normals, anomalies)
    normal_scores = batched_on_cpu(detector.embed, normals, device)[:, 0]
    anomalous_scores = batched_on_cpu(detector.embed, anomalies, device)[:, 0]
    for scores in (normal_scores, anomalous_scores):
        _check_finite(spec.source, scores)
    higher = is_higher_anomalous(normal_scores[:NUM_COMPARED], anomalous_scores, spec.higher_is, spec.source, of_what)
    centre, scale = calibrated(normal_scores, higher, spec.source)
    detector.centre.fill_(centre)
    detector.scale.fill_(scale)
    logits = logits_of(detector, normals, device)
    detector.threshold.fill_(logits.double().quantile(CENTRE_QUANTILE).item())
    share = (logits_of(detector, anomalies, device) > detector.threshold.cpu()).double().mean().item()
    if share <= MIN_FOUND:
        raise DataError(f"{spec.source} finds {share:.0%} of the {of_what} at a threshold that 5 % of the normal "
                        "images lie above: it does not tell them apart; check detector.higher_is, value_range, mean "
                        "and std, or take another exposure=...")
    detector.encoder.probe.copy_(_probe_logits(detector, splits.image_shape))
    direction = "higher" if higher else "lower"
    return detector, (
        f"{spec.source} conforms: {direction} is anomalous, threshold at {centre:.4g}, above it 5 % of "
        f"{len(normals)} held-out normals and {share:.0%} of {len(anomalies)} {of_what}"
    )


def check_unchanged(detector: Detector, image_shape: ImageShape, path: Path, remedy: str) -> None:
    """DataError where a detector that was loaded again scores otherwise than when it was taken over.

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


def calibrated(normals: Tensor, is_higher_anomalous: bool, source: str) -> tuple[float, float]:
    """Centre and scale from the raw scores (M,) of held-out normals. DataError where these do not vary.

    The centre is a raw score; the scale is raw score per unit of the logit, negative where a low score is anomalous.
    """
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
    return sign * centre, sign * spread / MEDIAN_LOGIT


def is_higher_anomalous(normals: Tensor, anomalies: Tensor, higher_is: HigherIs, source: str, of_what: str) -> bool:
    """From raw scores (M,) and (N,). `auto`: the AuROC decides, or DataError where it is not clear.

    of_what: the anomalies' name in messages.
    """
    found = share_of_pairs(normals, anomalies)
    order = f"{source} scores {of_what} above held-out normal images in {found:.0%} of the pairs"
    if higher_is is HigherIs.auto:
        if abs(found - 0.5) < CLEAR:
            raise DataError(f"{order}, which tells no direction; say it: detector.higher_is=anomalous or "
                            "detector.higher_is=normal, or check detector.value_range, mean and std")
        return found > 0.5
    wanted = higher_is is HigherIs.anomalous
    if (found - 0.5) * (1 if wanted else -1) < -CLEAR:
        message = f"{order}, and detector.higher_is={higher_is.value} says otherwise"
        warnings.warn(message, CfexplainWarning, stacklevel=2)
    return wanted


def share_of_pairs(low: Tensor, high: Tensor) -> float:
    """(M,), (N,) -> the share of pairs in which `high` is higher, ties counting half: the AuROC."""
    return stats.mannwhitneyu(high.double(), low.double(), method="asymptotic").statistic / (len(high) * len(low))


def pseudo_anomalies(normals: Tensor, seed: int) -> Tensor:
    """(N, C, H, W) uint8 normals -> the same, each with a third of itself inverted and pasted at another place."""
    rng, size = np.random.default_rng([seed, 4]), [max(1, side // 3) for side in normals.shape[2:]]
    made = normals.clone()
    for image, source in zip(made, normals, strict=True):
        ends = [[rng.integers(side - part + 1) for side, part in zip(source.shape[1:], size)] for _ in range(2)]
        cut, place = ([slice(end, end + part) for end, part in zip(both, size)] for both in ends)
        image[:, *place] = 255 - source[:, *cut]
    return made


def check_conformance(network: ExternalNetwork, normals: Tensor, anomalies: Tensor) -> None:
    """DataError, one line for each way in which no generator can be trained against this network.

    In this order: it takes the images, in any number; its scores are finite and differ; a gradient reaches the image;
    it says the same twice; an image's score does not depend on its batch; all on the run's device.
    normals, anomalies: (N, C, H, W) uint8; the network lies on its device.
    """
    device, source = network.mean.device, network.spec.source
    num_normals = min(NUM_CHECKED, len(normals))
    images = to_float(torch.cat([normals[:NUM_CHECKED], anomalies[:NUM_CHECKED]]).to(device))
    with torch.no_grad():
        _check_accepts(network, images)
        scores = _scores(network, images)
        _check_values(network, images, scores)
    _check_gradient(network, images, num_normals)
    tolerance = TOLERANCE * _range(scores[:num_normals]) + 1e-5 * float(scores.abs().max())
    with torch.no_grad():
        if (difference := _difference(_scores(network, images), scores)) > tolerance:
            raise DataError(f"{source} gives an image another score the second time ({difference:.3g} apart): dropout "
                            "or another random part is on; call model.eval() before you trace, script or export it")
        alone = torch.cat([_scores(network, image[None]) for image in images])
        if (difference := _difference(alone, scores)) > tolerance:
            raise DataError(f"{source} gives an image another score alone than within a batch ({difference:.3g} "
                            "apart): a batch norm is in training mode, or it normalises over the batch; call "
                            "model.eval() before you trace, script or export it")


def _scores(network: ExternalNetwork, images: Tensor) -> Tensor:
    return network(images)[:, 0]


def _check_accepts(network: ExternalNetwork, images: Tensor) -> None:
    """All images at once, then one: a program may be exported for one size of batch alone."""
    source, shape = network.spec.source, "x".join(map(str, network.prepared(images).shape[1:]))
    many, one = _failure(network, images), _failure(network, images[:1])
    if many and one:
        if _lives_elsewhere(network, images):
            raise DataError(f"{source} works on the CPU and not on {images.device} ({many}); export it on that device, "
                            "or set device=cpu")
        raise DataError(f"{source} does not take {len(images)} images of {shape} ({many}); set detector.height, width "
                        "and channels to what it expects, and export it with a dynamic batch size")
    if many or one:
        taken, refused = (len(images), 1) if one else (1, len(images))
        raise DataError(f"{source} takes a batch of {taken} images and not of {refused} ({many or one}); export it "
                        "with a dynamic batch size: dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)")
    if (device := network.raw(images).device) != images.device:
        raise DataError(f"{source} gives scores on {device} for images on {images.device}; let it work on the device "
                        "of its input")


def _failure(network: ExternalNetwork, images: Tensor) -> str | None:
    try:
        network.raw(images)
    except CfexplainError:
        raise
    except Exception as error:  # noqa: BLE001: the network's own code
        return short(error)
    return None


def _lives_elsewhere(network: ExternalNetwork, images: Tensor) -> bool:
    """Whether it fails on this device only."""
    if images.device.type == "cpu":
        return False
    network.cpu()
    works = _failure(network, images.cpu()) is None
    network.to(images.device)
    return works


def _check_values(network: ExternalNetwork, images: Tensor, scores: Tensor) -> None:
    source, raw = network.spec.source, network.raw(images).float()
    _check_finite(source, raw)
    if network.spec.score is Score.probability and not (raw.min() >= 0 and raw.max() <= 1):
        raise DataError(f"{source} gives {float(raw.min()):.4g} to {float(raw.max()):.4g}, which are no probabilities; "
                        "set detector.score=number")
    if _range(scores) <= 1e-6 * float(scores.abs().max()):
        raise DataError(f"{source} gives the same score ({float(scores[0]):.4g}) to {len(images)} different images; "
                        "check detector.output, value_range, mean and std, or mend the network")


def _check_finite(source: str, scores: Tensor) -> None:
    if num_bad := int((~scores.reshape(len(scores), -1).isfinite()).any(dim=1).sum()):
        raise DataError(f"{source} gives NaN or infinite scores to {num_bad} of {len(scores)} images; check "
                        "detector.value_range, mean and std, or mend the network")


def _check_gradient(network: ExternalNetwork, images: Tensor, num_normals: int) -> None:
    source, images = network.spec.source, images.clone().requires_grad_(True)
    export = "take out torch.no_grad, detach and numpy, or trace it, which keeps the operations and not that mode"
    try:
        scores = _scores(network, images)
        if not scores.requires_grad:
            raise DataError(f"no gradient comes back through {source}: its score does not depend on the image as "
                            f"far as torch knows; {export}")
        (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
    except CfexplainError:
        raise
    except Exception as error:  # noqa: BLE001: the network's own code
        raise DataError(f"the gradient of {source} fails ({short(error)}); {export}") from error
    if gradient is None:
        raise DataError(f"no gradient of {source} reaches the image; {export}")
    steepest = gradient.flatten(1).abs().amax(dim=1)  # (N,)
    if not steepest.isfinite().all():
        raise DataError(f"the gradient of {source} is not finite for {int((~steepest.isfinite()).sum())} of "
                        f"{len(images)} images; look for roots, logarithms and norms of zero in the network")
    num_flat, num_anomalous = int((steepest[num_normals:] == 0).sum()), len(images) - num_normals
    if num_flat > (1 - MIN_LIVE) * num_anomalous:
        raise DataError(f"{source} is flat: the gradient is zero for {num_flat} of {num_anomalous} anomalous images; "
                        "let it give its score before it is rounded, clamped or put through a sigmoid")


def _range(scores: Tensor) -> float:
    return float(scores.max() - scores.min())


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
