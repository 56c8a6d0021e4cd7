"""What an explain run leaves behind its batches: samples.csv, metrics.json, grids, cards and the report.

One pass over the saved batches feeds them all, so memory stays flat however many images there are.
"""

from __future__ import annotations

from cfexplain.commands.base import Job
from cfexplain.commands.judging_config import ExplainConfig
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.files import writing_csv
from cfexplain.inspection.atlas import AtlasBuilder
from cfexplain.inspection.saved import SavedInspections
from cfexplain.inspection.sentences import sentences
from cfexplain.inspection.totals import MEANINGS, Totals
from cfexplain.metrics.auroc import unlike_normals
from cfexplain.reporting.atlas_section import atlas_section
from cfexplain.reporting.chosen_pictures import ChosenPictures
from cfexplain.reporting.grids import spread
from cfexplain.reporting.inspector import explanation_facts, InspectorItems, write_inspector
from cfexplain.reporting.samples import sample_rows
from cfexplain.runs.lookup import metrics_of

WEAK_DETECTOR = 0.8
WEAK = (
    "a weak detector (detector_auroc {:.3f}): what is explained is what it reacts to, which need not be what is wrong "
    "with an image"
)


def write_results(
    job: Job, saved: SavedInspections, trained: TrainedRun, config: ExplainConfig
) -> dict[str, float | str]:
    index, num_images, totals = saved.index, saved.num_images, Totals()
    known = metrics_of(trained.folder)
    detector_auroc = known.get("detector_auroc")
    if detector_auroc is not None and detector_auroc < WEAK_DETECTOR:
        job.note(WEAK.format(detector_auroc))
    job.note(unlike_normals(known))
    class_names = index["class_names"]
    pictures = ChosenPictures(
        job.folder.path, class_names, index["false_alarm_rate"], grid=spread(num_images, config.num_grid_images),
        strips=spread(num_images, config.num_film_strips),
        cards=spread(num_images, num_images if config.num_cards is None else config.num_cards),
    )
    items, atlas = InspectorItems(job.folder.path, class_names, num_images), None
    with writing_csv(job.folder.path / "samples.csv") as write_rows:
        for inspection in saved:
            texts = [sentences(inspection, row) for row in range(len(inspection.nearest_ids))]
            write_rows(sample_rows(inspection, class_names))
            totals.add(inspection)
            atlas = atlas or AtlasBuilder(inspection)
            atlas.add(inspection)
            pictures.add(inspection, texts)
            items.add(inspection, texts)
    metrics = totals.metrics("num_images" if index["of_test_anomalies"] else "num_own_images")
    job.folder.write_metrics(metrics)
    job.reporter.say("verdicts: " + ", ".join(f"{name} {count}" for name, count in totals.counts.items()))
    if 0 < len(pictures.cards) < num_images:
        job.reporter.say(
            f"cards of {len(pictures.cards)} of the {num_images} images are in {job.folder.path / 'cards'}; "
            "num_cards=null for all"
        )
    assert atlas is not None, f"{saved.folder} has no batch"
    write_inspector(
        job.folder.path / "report.html", f"Explanations: {trained.slug}",
        explanation_facts(trained.folder, trained.config.detector, index, totals.num_images, detector_auroc),
        totals.counts, items,
        false_alarm_rate=index["false_alarm_rate"], metrics=metrics, meanings=MEANINGS,
        notes=job.folder.record["warnings"], sections=[pictures.overview(), atlas_section(atlas.atlas())],
    )
    return metrics
