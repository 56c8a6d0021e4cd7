"""Does an image keep its score when it is saved, moved or blurred, and for a detector that the generator never saw?"""

from __future__ import annotations

from cfexplain.detectors.base import Detector, logits_of
from cfexplain.inspection.base import Reference, SECOND_DETECTOR
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.alterations import Alterations

BATCH_SIZE = 512


def altered_logits(
    detector: Detector, images: Tensor, alterations: Alterations, device: torch.device | str
) -> Tensor:
    """(N, C, H, W) uint8 -> (N, M) float32: the logits after each alteration, batch by batch."""
    functions = alterations.functions.values()
    parts = [
        torch.stack([logits_of(detector, alter(batch), device) for alter in functions], dim=1)
        for batch in images.split(BATCH_SIZE)
    ]
    return torch.cat(parts)


def alteration_names(reference: Reference) -> tuple[str, ...]:
    names = tuple(reference.alterations.functions)
    return names if reference.second_detector is None else (*names, SECOND_DETECTOR)


def survivals(detector: Detector, images: Tensor, reference: Reference, device: torch.device | str) -> Tensor:
    """(N, C, H, W) uint8 -> (N, M) bool, in the order of `alteration_names`: at or below the threshold of each."""
    thresholds = torch.tensor(reference.alteration_thresholds)
    survives = altered_logits(detector, images, reference.alterations, device) <= thresholds
    if reference.second_detector is None:
        return survives
    second = logits_of(reference.second_detector, images, device) <= reference.second_threshold
    return torch.cat([survives, second[:, None]], dim=1)
