"""What a trained run says of images, in few numbers each: how a comparison holds many runs and many images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cfexplain.commands.explained_images import ExplainedImages
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.errors import DataError
from cfexplain.inspection.base import VERDICTS, Verdict
from cfexplain.reporting.samples import CHANGED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cfexplain.explanation.model import FittedModel
    from cfexplain.inspection.base import Reference
    from cfexplain.types import ImageSet

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the compared runs, opened. images: in the size that it takes."""

    name: str
    trained: TrainedRun
    model: FittedModel
    reference: Reference
    images: ExplainedImages


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Of those N images that can be read. The best concept has the best verdict and, of several, the lowest score.

    names:         N; classes: (N,) int64, -1 where it is not known.
    logits_before: (N,) float32; is_anomalous: (N,) bool, above the threshold.
    codes:         (N, K) int64, index into VERDICTS; concepts: (N,) int64, the best one of each image.
    logits_after, l1_distances, changed_fractions: (N,) float32, of the best concept's counterfactual.
    accepted:      (N, S) bool, whether each side's detector takes that counterfactual for normal; None where the sides
                   take images of different sizes.
    """

    names: tuple[str, ...]
    classes: Tensor
    logits_before: Tensor
    is_anomalous: Tensor
    codes: Tensor
    concepts: Tensor
    logits_after: Tensor
    l1_distances: Tensor
    changed_fractions: Tensor
    accepted: Tensor | None

    def verdict(self, index: int) -> Verdict:
        """Of the best concept."""
        return VERDICTS[int(self.codes[index, self.concepts[index]])]


JOINED = ("classes", "logits_before", "is_anomalous", "codes", "concepts", "logits_after", "l1_distances",
          "changed_fractions")  # tensors of Judged that every batch has


def judged(side: Side, sides: list[Side], device: torch.device) -> Judged:
    """Batch after batch; the counterfactuals themselves are not kept."""
    import torch

    parts: list[Judged] = []
    for start in range(0, len(side.images), BATCH_SIZE):
        batch = side.images.load(range(start, min(start + BATCH_SIZE, len(side.images))))
        if len(batch):
            parts.append(_judged_batch(side, sides, batch, device))
    if not parts:
        raise DataError(f"images: none of the {len(side.images)} files could be read; cfexplain.log names each")
    is_same_size = parts[0].accepted is not None
    return Judged(
        names=tuple(name for part in parts for name in part.names),
        accepted=torch.cat([part.accepted for part in parts]) if is_same_size else None,  # type: ignore[misc]
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in JOINED},
    )


def best_concepts(codes: Tensor, logits: Tensor) -> Tensor:
    """(N, K) verdict codes, which rise from bad to good, and logits -> (N,) int64."""
    has_best_verdict = codes == codes.amax(dim=1, keepdim=True)
    return logits.masked_fill(~has_best_verdict, float("inf")).argmin(dim=1)


def _judged_batch(side: Side, sides: list[Side], sources: ImageSet, device: torch.device) -> Judged:
    import torch

    from cfexplain.detectors.network import logits_of
    from cfexplain.explanation.explain import explain_images
    from cfexplain.inspection.checks import check

    explanations = explain_images(side.model, sources, device, threshold=side.reference.threshold)
    codes = check(side.model.detector, explanations, side.reference, device).verdict_codes
    concepts = best_concepts(codes, explanations.logits[:, 0])
    rows = torch.arange(len(sources))
    best = explanations.counterfactuals[rows, concepts]  # (N, C, H, W)
    changes = (best.short() - sources.images.short()).abs() / 127.5
    accepted = None
    if len({other.trained.image_shape() for other in sides}) == 1:
        thresholds = torch.tensor([other.reference.threshold for other in sides])
        logits = [logits_of(other.model.detector, best, device) for other in sides]
        accepted = torch.stack(logits, dim=1) <= thresholds
    return Judged(
        names=sources.ids,
        classes=sources.classes,
        logits_before=explanations.source_logits,
        is_anomalous=explanations.source_logits > side.reference.threshold,
        codes=codes,
        concepts=concepts,
        logits_after=explanations.logits[rows, 0, concepts],
        l1_distances=changes.flatten(1).mean(dim=1),
        changed_fractions=(changes.amax(dim=1) > CHANGED).flatten(1).float().mean(dim=1),
        accepted=accepted,
    )
