"""What an explain run leaves behind its batches: samples.csv, metrics.json, grids, cards and the report.

Each is written in a pass of its own over the saved batches, so memory stays flat however many images there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.commands.base import Job
from cfexplain.commands.second_detector import REFIT
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.files import write_csv
from cfexplain.inspection.atlas import build_atlas
from cfexplain.inspection.base import Inspection, Verdict, VERDICTS
from cfexplain.inspection.saved import joined, SavedInspections
from cfexplain.inspection.sentences import sentences
from cfexplain.lazy import torch
from cfexplain.metrics.auroc import unlike_normals
from cfexplain.metrics.classifiers import RANDOM
from cfexplain.reporting.atlas_section import atlas_section
from cfexplain.reporting.cards import draw_card
from cfexplain.reporting.grids import (
    as_scores, counterfactual_grid, difference_grid, film_strip, spread, write_picture,
)
from cfexplain.reporting.inspector import Section, write_inspector
from cfexplain.reporting.samples import sample_rows
from cfexplain.runs.folder import safe_name
from cfexplain.runs.lookup import metrics_of
from cfexplain.types import class_name, Explanations

WEAK_DETECTOR = 0.8
WEAK = (
    "a weak detector (detector_auroc {:.3f}): what is explained is what it reacts to, which need not be what is wrong with "
    "an image"
)
MEANINGS = {
    "num_images": ("images explained", ""),
    "num_own_images": ("images explained, your own", ""),
    "validity": ("share of counterfactuals at or below the threshold", "1"),
    "l1_distance": ("mean change of a counterfactual, images in [-1, 1]", "0"),
    "repair_validity": ("share of minimal repairs at or below the threshold", "validity"),
    "repair_l1_distance": ("mean change of a minimal repair", "0"),
    "excess_change": ("share of the repaired images' change that the minimal repair saves", "0"),
    **{f"share_{verdict}": (f"share of counterfactuals with the verdict {verdict}", "1" if verdict == "ok" else "0")
       for verdict in VERDICTS},
}


def write_results(
    job: Job, saved: SavedInspections, trained: TrainedRun, num_grid_images: int, num_film_strips: int,
    num_cards: int | None,
) -> dict[str, float | str]:
    index, table = saved.index, _Table()
    known = metrics_of(trained.folder)
    detector_auroc = known.get("detector_auroc")
    if detector_auroc is not None and detector_auroc < WEAK_DETECTOR:
        job.note(WEAK.format(detector_auroc))
    if (note := unlike_normals(known)) is not None:
        job.note(note)

    def rows() -> Iterator[dict[str, Any]]:
        for inspection in saved:
            made = sample_rows(inspection, index["class_names"])
            table.add(inspection, made)
            yield from made

    write_csv(job.folder.path / "samples.csv", rows())
    metrics = table.metrics("num_images" if index["of_test_anomalies"] else "num_own_images")
    job.folder.write_metrics(metrics)
    job.reporter.say("verdicts: " + ", ".join(f"{name} {count}" for name, count in table.counts.items()))
    grids = _draw_grids(job, _chosen(saved, spread(table.num_images, num_grid_images)))
    strips = spread(table.num_images, num_film_strips)
    if strips:
        _draw_film_strips(job, _chosen(saved, strips))
    _draw_cards(job, saved, table.num_images, num_cards)
    write_inspector(
        job.folder.path / "report.html", f"Explanations: {trained.slug}", _facts(trained, index, table, detector_auroc),
        table.counts,
        saved, sentences, index["class_names"], false_alarm_rate=index["false_alarm_rate"], metrics=metrics,
        meanings=MEANINGS, notes=job.folder.record["warnings"], sections=[grids, atlas_section(build_atlas(saved))],
    )
    return metrics


@dataclass
class _Table:
    """Sums over the rows of samples.csv."""

    num_images: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, inspection: Inspection, rows: Sequence[dict[str, Any]]) -> None:
        explanations = inspection.explanations
        self.num_images += len(explanations.sources)
        is_valid = (explanations.logits[:, 0] <= explanations.threshold).flatten().tolist()  # in the order of the rows
        self.sums["validity"] += sum(is_valid)
        self.sums["repair_validity"] += int((inspection.repair_logits <= explanations.threshold).sum())
        for row, valid in zip(rows, is_valid, strict=True):
            change, repair = float(row["l1_distance"]), float(row["repair_l1_distance"])
            self.verdicts[row["verdict"]] += 1
            self.sums["l1_distance"] += change
            self.sums["repair_l1_distance"] += repair
            if valid and row["verdict"] != Verdict.already_normal:  # else there was nothing to repair
                self.sums["repaired_change"] += change
                self.sums["repaired_repair"] += repair

    @property
    def counts(self) -> dict[str, int]:
        """Of each verdict, in the order of VERDICTS, also of those that nobody got."""
        return {verdict.value: self.verdicts[verdict.value] for verdict in VERDICTS}

    def metrics(self, count_key: str) -> dict[str, float | str]:
        num_rows = sum(self.verdicts.values())
        means = {name: self.sums[name] / num_rows
                 for name in ("validity", "l1_distance", "repair_validity", "repair_l1_distance")}
        saved = {"excess_change": 1 - self.sums["repaired_repair"] / self.sums["repaired_change"]} \
            if self.sums["repaired_change"] > 0 else {}
        shares = {f"share_{name}": count / num_rows for name, count in self.counts.items()}
        return {count_key: self.num_images, **means, **saved, **shares}


def _chosen(saved: SavedInspections, indices: Sequence[int]) -> Explanations:
    """Of these images alone."""
    return joined([
        Explanations(
            sources=part.explanations.sources.select(torch.tensor(rows)),
            images=part.explanations.images[rows],
            logits=part.explanations.logits[rows],
            source_logits=part.explanations.source_logits[rows],
            threshold=part.explanations.threshold,
        )
        for part, rows in _rows_of(saved, set(indices))
    ])


def _rows_of(saved: SavedInspections, indices: set[int]) -> Iterator[tuple[Inspection, list[int]]]:
    """Batches that hold some of these images, with the rows that they have there."""
    first = 0
    for part in saved:
        size = len(part.explanations.sources)
        rows = [row for row in range(size) if first + row in indices]
        if rows:
            yield part, rows
        first += size


def _draw_grids(job: Job, explanations: Explanations) -> Section:
    images, chosen = job.folder.images, range(len(explanations.sources))
    pictures = {"counterfactuals": counterfactual_grid(explanations, chosen),
                "differences": difference_grid(explanations, chosen)}
    for name, picture in pictures.items():
        write_picture(images / f"{name}.png", picture)
    captions = ("Anomalies and their counterfactuals, with anomaly scores", "What changed: blue darker, red brighter")
    return Section(
        title="Overview", notes=[f"{len(chosen)} images, spread evenly over all."], headings=(), rows=(),
        pictures=list(zip(captions, pictures.values(), strict=True)),
    )


def _draw_film_strips(job: Job, explanations: Explanations) -> None:
    for number in range(len(explanations.sources)):
        write_picture(job.folder.images / f"film-strip-{number}.png", film_strip(explanations, number))


def _draw_cards(
    job: Job, saved: SavedInspections, num_images: int, num_cards: int | None
) -> None:
    """cards/<name of the image>.png; a number is put behind a name that was there before."""
    folder = job.folder.path / "cards"
    class_names, false_alarm_rate = saved.index["class_names"], saved.index["false_alarm_rate"]
    wanted = spread(num_images, num_images if num_cards is None else num_cards)
    if not wanted:
        return
    folder.mkdir(exist_ok=True)
    taken: Counter[str] = Counter()
    for part, rows in _rows_of(saved, set(wanted)):
        sources = part.explanations.sources
        for row in rows:
            name = card_name(sources.ids[row], is_own=not class_names)
            taken[name] += 1
            number = f"-{taken[name]}" if taken[name] > 1 else ""
            picture = draw_card(
                part, row, sentences(part, row), class_name(int(sources.classes[row]), class_names),
                false_alarm_rate=false_alarm_rate,
            )
            write_picture(folder / f"{name}{number}.png", picture)
    if len(wanted) < num_images:
        job.reporter.say(f"cards of {len(wanted)} of the {num_images} images are in {folder}; num_cards=null for all")


def card_name(image_id: str, is_own: bool) -> str:
    """Without the ending of its file; of one's own images without the folders too."""
    path = Path(image_id)
    return safe_name(path.stem if is_own else str(path.with_suffix("")))


def _facts(
    trained: TrainedRun, index: dict[str, Any], table: _Table, detector_auroc: float | None
) -> dict[str, object]:
    score = float(as_scores(np.array([index["threshold"]]))[0])
    rate, judge = index["false_alarm_rate"], index["second_detector"]
    survival = index["normal_survival"]
    passing = {} if survival is None else {
        "of real normal images": f"{100 * survival:.0f} % of those that count as normal pass all alterations and the "
                                 "second detector: what to compare the verdict adversarial with"
    }
    known = {} if detector_auroc is None else {"on test images": f"detector_auroc {detector_auroc:.3f}"}
    return {
        "trained model": trained.folder,
        "detector": trained.config.detector.name,
        **known,
        "images explained": table.num_images,
        "counts as normal": f"score at or below {score:.4g}: {1 - rate:.4g} of {index['num_held_out']} held-out normal "
                            f"images lie there (false-alarm rate {rate:.4g})",
        "second detector": _refitted(trained) if judge == REFIT else judge,
        **passing,
        "distances to normal images": "in features of a network with random weights" if index["features"] == RANDOM
                                      else f"in features of the network {index['features']}",
    }


def _refitted(trained: TrainedRun) -> str:
    spec = trained.config.detector
    if spec.second is spec:
        return "the same kind, another seed"
    return f"{spec.second.name}, trained on the same data: {spec.name} cannot be trained again"
