"""Is this network a detector that a generator can be trained against? Each way to fail has its line.

In this order: it takes the images, in any number; its scores are finite and differ; a gradient reaches the image; it
says the same twice; an image's score does not depend on its batch; all on the run's device.
"""

from __future__ import annotations

from cfexplain.data.batches import to_float
from cfexplain.detectors.external.network import ExternalNetwork, Score
from cfexplain.detectors.external.sources import short
from cfexplain.errors import CfexplainError, DataError
from cfexplain.lazy import Tensor, torch

NUM_IMAGES = 8  # of each, normal and anomalous
TOLERANCE = 0.02  # of the normal images' range of scores: TF32 on a GPU is no more exact, dropout far less
MIN_LIVE = 0.5  # share of anomalous images that must have a gradient


def check_conformance(network: ExternalNetwork, normals: Tensor, anomalies: Tensor) -> None:
    """normals, anomalies: (N, C, H, W) uint8; the network lies on its device. DataError with one line."""
    device, source = network.mean.device, network.spec.source
    num_normals = min(NUM_IMAGES, len(normals))
    images = to_float(torch.cat([normals[:NUM_IMAGES], anomalies[:NUM_IMAGES]]).to(device))
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
    reasons = {count: _failure(network, images[:count]) for count in (len(images), 1)}
    many, one = reasons[len(images)], reasons[1]
    if many is not None and one is not None and _lives_elsewhere(network, images):
        raise DataError(f"{source} works on the CPU and not on {images.device} ({many}); export it on that device, or "
                        "set device=cpu")
    if many is not None and one is not None:
        raise DataError(f"{source} does not take {len(images)} images of {shape} ({many}); set detector.height, width "
                        "and channels to what it expects, and export it with a dynamic batch size")
    if many is not None or one is not None:
        taken, refused = (1, len(images)) if one is None else (len(images), 1)
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
    if num_bad := int((~raw.reshape(len(images), -1).isfinite()).any(dim=1).sum()):
        raise DataError(f"{source} gives NaN or infinite scores to {num_bad} of {len(images)} images; check "
                        "detector.value_range, mean and std, or mend the network")
    if network.spec.score is Score.probability and not (raw.min() >= 0 and raw.max() <= 1):
        raise DataError(f"{source} gives {float(raw.min()):.4g} to {float(raw.max()):.4g}, which are no probabilities; "
                        "set detector.score=number")
    if _range(scores) <= 1e-6 * float(scores.abs().max()):
        raise DataError(f"{source} gives the same score ({float(scores[0]):.4g}) to {len(images)} different images; "
                        "check detector.output, value_range, mean and std, or mend the network")


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
