"""Metrics as a table. The rows come from the very dict that metrics.json holds, and are rounded here only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

MEANINGS = {
    "detector_auroc": ("normal vs anomalous test images", "1"),
    "cf_auroc": ("normal test images vs counterfactuals", "0.5"),
    "validity": ("share of counterfactuals that the detector calls normal", "1"),
    "fid_normalized": ("distance to normal images; 1 = as far as the anomalies", "0"),
    "fid_counterfactual": ("FID, normal test images vs counterfactuals", "0"),
    "fid_anomaly": ("FID, normal test images vs anomalies", "-"),
    "fid_features": ("network whose features FID and KID compare", ""),
    "fid_images": ("images a side behind FID and KID", ""),
    "kid_counterfactual": ("KID, normal test images vs counterfactuals", "0"),
    "kid_anomaly": ("KID, normal test images vs anomalies", "-"),
    "concept_accuracy_joint": ("concepts told apart by the trained-along classifier", "1"),
    "concept_accuracy_fresh": ("concepts told apart by a fresh classifier", "1"),
    "substitutability_auroc": ("detector trained on counterfactuals as normals", "detector_auroc"),
    "substitutability_ratio": ("the same as a share of the detector's gain over chance", "1"),
    "l1_distance": ("mean change of a pixel, range -1..1", "low"),
    "changed_fraction": ("share of pixels that change visibly", "low"),
    "alpha_correlation": ("wanted vs reached score", "1"),
    "transfer_auroc": ("cf_auroc under a detector never seen in training", "cf_auroc"),
    "transfer_gap": ("transfer_auroc minus cf_auroc", "0"),
    "transfer_detector_auroc": ("detector_auroc of that other detector", "1"),
    "transfer_validity": ("validity under that other detector", "1"),
    "survival": ("share of valid ones still valid after PNG, JPEG, shift, blur", "1"),
    "oracle_normal_rate": ("share that truly are normal, by the known factors", "1"),
    "oracle_concept_purity": ("share in which only the concept's own factor became normal", "1"),
    "oracle_purity": ("share in which only the concept's own factor became normal", "1"),
    "oracle_other_kept": ("share in which the other factor kept its value", "1"),
    "oracle_legible_rate": ("share on which the oracle is sure of the class", "1"),
    "oracle_accuracy": ("the oracle's own accuracy on real test images", "1"),
    "oracle_assignment": ("factor that each concept stands for", ""),
}
INTERVAL = ("_low", "_high")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    key: str
    value: str
    interval: str
    meaning: str
    ideal: str


def metric_rows(metrics: Mapping[str, float | str]) -> list[TableRow]:
    """A row per metric, in the order of the dict; `<key>_low` and `<key>_high` become its interval."""
    rows = []
    for key, value in metrics.items():
        if key == "schema_version" or any(
                key.endswith(end) and key.removesuffix(end) in metrics for end in INTERVAL):
            continue
        ends = [metrics.get(key + end) for end in INTERVAL]
        interval = "" if None in ends else f"{as_text(ends[0])} to {as_text(ends[1])}"  # type: ignore[arg-type]
        meaning, ideal = meaning_of(key)
        rows.append(TableRow(key=key, value=as_text(value), interval=interval, meaning=meaning, ideal=ideal))
    return rows


def meaning_of(key: str) -> tuple[str, str]:
    """What a metric says, and its ideal value; empty for one that is not in the table above."""
    of_concept = re.fullmatch(r"(.+)_concept_(\d+)", key)
    if of_concept is None:
        return MEANINGS.get(key, ("", ""))
    return f"the same for concept {of_concept[2]}", MEANINGS.get(of_concept[1], ("", ""))[1]


def as_text(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_table(metrics: Mapping[str, float | str], stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("metric", "value", "95 % interval", "ideal", "meaning"):
        table.add_column(name, no_wrap=name != "meaning", justify="right" if name == "value" else "left")
    for row in metric_rows(metrics):
        table.add_row(row.key, row.value, row.interval, row.ideal, row.meaning)
    # A file or a pipe has no width of its own: lines must not be broken at 80 there, scripts read them.
    Console(file=stream, width=None if stream.isatty() else 140).print(table)
