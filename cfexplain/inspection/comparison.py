"""What a trained run says of images, in few numbers each: how a comparison holds many runs and many images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cfexplain.data.own_images import ExplainedImages
from cfexplain.detectors.base import logits_of
from cfexplain.errors import DataError
from cfexplain.explanation.explain import explain_images, FittedModel
from cfexplain.inspection.base import Verdict, VERDICTS
from cfexplain.inspection.inspect import check
from cfexplain.inspection.reference import Reference
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.agreement import agreement, cohens_kappa
from cfexplain.metrics.distance import changed_fractions, l1_distances, level_changes, VISIBLE_CHANGE
from cfexplain.types import ImageSet, ImageShape, joined

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the compared runs, opened. images: in the size that it takes."""

    name: str
    image_shape: ImageShape
    model: FittedModel
    reference: Reference
    images: ExplainedImages


@dataclass(frozen=True, kw_only=True)
class RunVerdicts:
    """Of those N images that can be read. The best concept has the best verdict and, of several, the lowest score.

    names:         N; classes: (N,) int64, -1 where it is not known.
    logits_before: (N,) float32; is_anomalous: (N,) bool, above the threshold.
    codes:         (N, K) int64, index into VERDICTS; concepts: (N,) int64, the best one of each image.
    logits_after: (N,) float32; l1_distances, changed_fractions: (N,) float64; of the best concept's counterfactual.
    accepted:      (N, S) bool, whether each run's detector takes that counterfactual for normal; None where the runs
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

    @property
    def best_codes(self) -> np.ndarray:
        """(N,) int64: the verdict of each image's best concept."""
        return self.codes.gather(1, self.concepts[:, None])[:, 0].numpy()

    def verdict(self, index: int) -> Verdict:
        """Of the best concept."""
        return VERDICTS[int(self.codes[index, self.concepts[index]])]


def run_verdicts(run: ComparedRun, runs: list[ComparedRun], device: torch.device) -> RunVerdicts:
    """Batch after batch; the counterfactuals themselves are not kept."""
    parts: list[RunVerdicts] = []
    for start in range(0, len(run.images), BATCH_SIZE):
        batch = run.images.load(range(start, min(start + BATCH_SIZE, len(run.images))))
        if len(batch):
            parts.append(_batch_verdicts(run, runs, batch, device))
    if not parts:
        raise DataError(f"images: none of the {len(run.images)} files could be read; cfexplain.log names each")
    return joined(parts)


def best_concepts(codes: Tensor, logits: Tensor) -> Tensor:
    """(N, K) verdict codes, which rise from bad to good, and logits -> (N,) int64."""
    has_best_verdict = codes == codes.amax(dim=1, keepdim=True)
    return logits.masked_fill(~has_best_verdict, float("inf")).argmin(dim=1)


def _batch_verdicts(run: ComparedRun, runs: list[ComparedRun], sources: ImageSet, device: torch.device) -> RunVerdicts:
    explanations = explain_images(run.model, sources, device, threshold=run.reference.threshold)
    codes = check(run.model.detector, explanations, run.reference, device).verdict_codes
    concepts = best_concepts(codes, explanations.logits[:, 0])
    rows = torch.arange(len(sources))
    best = explanations.counterfactuals[rows, concepts]  # (N, C, H, W)
    changes = level_changes(sources.images, best)
    accepted = None
    if len({other.image_shape for other in runs}) == 1:
        thresholds = torch.tensor([other.reference.threshold for other in runs])
        logits = [logits_of(other.model.detector, best, device) for other in runs]
        accepted = torch.stack(logits, dim=1) <= thresholds
    return RunVerdicts(
        names=sources.ids,
        classes=sources.classes,
        logits_before=explanations.source_logits,
        is_anomalous=explanations.source_logits > run.reference.threshold,
        codes=codes,
        concepts=concepts,
        logits_after=explanations.logits[rows, 0, concepts],
        l1_distances=torch.from_numpy(l1_distances(changes)),
        changed_fractions=torch.from_numpy(changed_fractions(changes, VISIBLE_CHANGE)),
        accepted=accepted,
    )


MEANINGS = {
    "num_images": ("images that are compared", ""),
    "agreement": ("share of images that all runs call anomalous, or all normal", "1"),
    "cohens_kappa": ("the same beyond chance; 0 = as often as by chance", "1"),
    "verdict_agreement": ("share of images with the same verdict in all runs", "1"),
}


def comparison_metrics(runs: list[ComparedRun], verdicts: list[RunVerdicts]) -> dict[str, float | str]:
    anomalous = np.stack([part.is_anomalous.numpy() for part in verdicts], axis=1)  # (N, S)
    codes = np.stack([part.best_codes for part in verdicts], axis=1)  # (N, S)
    values: dict[str, float | str] = {
        "num_images": len(anomalous),
        "agreement": agreement(anomalous),
        "verdict_agreement": agreement(codes),
    }
    pairs = list(itertools.combinations(range(len(runs)), 2))
    kappas = {(i, j): cohens_kappa(anomalous[:, i], anomalous[:, j]) for i, j in pairs}
    known = {pair: kappa for pair, kappa in kappas.items() if kappa is not None}
    if known:
        values["cohens_kappa"] = float(np.mean(list(known.values())))
    if len(pairs) > 1:
        values |= {f"cohens_kappa_{runs[i].name}_{runs[j].name}": kappa for (i, j), kappa in known.items()}
    for number, run in enumerate(runs):
        values[f"num_anomalous_{run.name}"] = int(anomalous[:, number].sum())
        counted = np.bincount(codes[:, number], minlength=len(VERDICTS)).tolist()
        values |= {f"num_{verdict}_{run.name}": count for verdict, count in zip(VERDICTS, counted, strict=True)}
    return values | _convinced(runs, verdicts)


def _convinced(runs: list[ComparedRun], verdicts: list[RunVerdicts]) -> dict[str, float]:
    """Share of each run's counterfactuals that its own detector accepts, of anomalies, that another's accepts too."""
    values = {}
    for (number, run), (other, second) in itertools.permutations(enumerate(runs), 2):
        part = verdicts[number]
        if part.accepted is not None:
            flipped = part.is_anomalous & (part.logits_after <= run.reference.threshold)
            if flipped.any():
                values[f"{run.name}_convinces_{second.name}"] = part.accepted[flipped, other].double().mean().item()
    return values


def comparison_meanings(metrics: Mapping[str, float | str], runs: list[ComparedRun]) -> dict[str, tuple[str, str]]:
    known = dict(MEANINGS)
    for run in runs:
        known[f"num_anomalous_{run.name}"] = (f"images that {run.name} calls anomalous", "")
        known |= {f"num_{verdict}_{run.name}": (f"images whose best concept is {verdict} in {run.name}", "")
                  for verdict in VERDICTS}
        known |= {f"{run.name}_convinces_{other.name}": (
            f"share of {run.name}'s accepted counterfactuals that {other.name} accepts too", "") for other in runs}
    pairs = {key: ("cohens_kappa of these two", "1") for key in metrics if key.startswith("cohens_kappa_")}
    return known | pairs
