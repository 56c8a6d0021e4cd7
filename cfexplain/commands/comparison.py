"""What a trained run says of images, in few numbers each: how a comparison holds many runs and many images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cfexplain.commands.trained_run import TrainedRun
from cfexplain.data.own_images import ExplainedImages
from cfexplain.detectors.base import logits_of
from cfexplain.errors import DataError
from cfexplain.explanation.explain import explain_images, FittedModel
from cfexplain.inspection.base import Verdict, VERDICTS
from cfexplain.inspection.reference import Reference
from cfexplain.inspection.inspect import check
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.agreement import agreement, cohens_kappa
from cfexplain.metrics.distance import changed_fractions, l1_distances, level_changes, VISIBLE_CHANGE
from cfexplain.reporting.grids import as_scores, spread
from cfexplain.types import class_name, ImageSet

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
    logits_after: (N,) float32; l1_distances, changed_fractions: (N,) float64; of the best concept's counterfactual.
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
    explanations = explain_images(side.model, sources, device, threshold=side.reference.threshold)
    codes = check(side.model.detector, explanations, side.reference, device).verdict_codes
    concepts = best_concepts(codes, explanations.logits[:, 0])
    rows = torch.arange(len(sources))
    best = explanations.counterfactuals[rows, concepts]  # (N, C, H, W)
    changes = level_changes(sources.images, best)
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


def comparison_rows(sides: list[Side], found: list[Judged]) -> list[dict[str, object]]:
    """One an image: comparison.csv."""
    rows = []
    for index, name in enumerate(found[0].names):
        class_index, names = int(found[0].classes[index]), sides[0].images.class_names
        row: dict[str, object] = {"id": name, "class": class_name(class_index, names)}
        row["agree"] = len({bool(part.is_anomalous[index]) for part in found}) == 1
        row["same_verdict"] = len({part.verdict(index) for part in found}) == 1
        for side, part in zip(sides, found, strict=True):
            values = {
                "is_anomalous": bool(part.is_anomalous[index]),
                "score_before": score_text(part.logits_before[index]),
                "threshold": score_text(side.reference.threshold),
                "verdict": part.verdict(index).value,
                "concept": int(part.concepts[index]),
                "score_after": score_text(part.logits_after[index]),
                "logit_before": f"{part.logits_before[index]:.6g}",
                "logit_after": f"{part.logits_after[index]:.6g}",
                "logit_threshold": f"{side.reference.threshold:.6g}",
                "l1_distance": f"{part.l1_distances[index]:.6g}",
                "changed_fraction": f"{part.changed_fractions[index]:.6g}",
            }
            row |= {f"{side.name}_{key}": value for key, value in values.items()}
            if part.accepted is not None:
                others = zip(sides, part.accepted[index].tolist(), strict=True)
                row |= {f"{side.name}_convinces_{other.name}": said for other, said in others if other is not side}
        rows.append(row)
    return rows


def comparison_metrics(sides: list[Side], found: list[Judged]) -> dict[str, float | str]:
    anomalous = np.stack([part.is_anomalous.numpy() for part in found], axis=1)  # (N, S)
    verdicts = np.stack([_best_codes(part) for part in found], axis=1)  # (N, S)
    values: dict[str, float | str] = {
        "num_images": len(anomalous),
        "agreement": agreement(anomalous),
        "verdict_agreement": agreement(verdicts),
    }
    pairs = list(itertools.combinations(range(len(sides)), 2))
    kappas = {(i, j): cohens_kappa(anomalous[:, i], anomalous[:, j]) for i, j in pairs}
    known = {pair: kappa for pair, kappa in kappas.items() if kappa is not None}
    if known:
        values["cohens_kappa"] = float(np.mean(list(known.values())))
    if len(pairs) > 1:
        values |= {f"cohens_kappa_{sides[i].name}_{sides[j].name}": kappa for (i, j), kappa in known.items()}
    for number, side in enumerate(sides):
        values[f"num_anomalous_{side.name}"] = int(anomalous[:, number].sum())
        counted = np.bincount(verdicts[:, number], minlength=len(VERDICTS)).tolist()
        values |= {f"num_{verdict}_{side.name}": count for verdict, count in zip(VERDICTS, counted, strict=True)}
    return values | _convinced(sides, found)


def _convinced(sides: list[Side], found: list[Judged]) -> dict[str, float]:
    """Share of each run's counterfactuals that its own detector accepts, of anomalies, that another's accepts too."""
    values = {}
    for (own, side), (other, judge) in itertools.permutations(enumerate(sides), 2):
        part = found[own]
        if part.accepted is not None:
            flipped = part.is_anomalous & (part.logits_after <= side.reference.threshold)
            if flipped.any():
                values[f"{side.name}_convinces_{judge.name}"] = part.accepted[flipped, other].double().mean().item()
    return values


def comparison_meanings(metrics: Mapping[str, float | str], sides: list[Side]) -> dict[str, tuple[str, str]]:
    known = dict(MEANINGS)
    for side in sides:
        known[f"num_anomalous_{side.name}"] = (f"images that {side.name} calls anomalous", "")
        known |= {f"num_{verdict}_{side.name}": (f"images whose best concept is {verdict} in {side.name}", "")
                  for verdict in VERDICTS}
        known |= {f"{side.name}_convinces_{other.name}": (
            f"share of {side.name}'s accepted counterfactuals that {other.name} accepts too", "") for other in sides}
    pairs = {key: ("cohens_kappa of these two", "1") for key in metrics if key.startswith("cohens_kappa_")}
    return known | pairs


def shown_images(found: list[Judged], num_images: int) -> list[int]:
    """Images to be drawn: those of which the runs disagree, then those with other verdicts, then the rest.

    Of a kind with more than there is room for, evenly spread ones.
    """
    anomalous = np.stack([part.is_anomalous.numpy() for part in found], axis=1)
    verdicts = np.stack([_best_codes(part) for part in found], axis=1)
    disagree, differ = (~(values == values[:, :1]).all(axis=1) for values in (anomalous, verdicts))
    chosen: list[int] = []
    for kind in (disagree, differ & ~disagree, ~differ & ~disagree):
        indices = np.flatnonzero(kind)
        chosen += [int(indices[place]) for place in spread(len(indices), num_images - len(chosen))]
    return chosen


def _best_codes(part: Judged) -> np.ndarray:
    """(N,) int64: the verdict of each image's best concept."""
    return part.codes.gather(1, part.concepts[:, None])[:, 0].numpy()


def score_text(logit: float) -> str:
    return f"{float(as_scores(np.array(float(logit)))):.6g}"
