"""Which images are used for what, to be read before training starts."""

from __future__ import annotations

from cfexplain.types import ImageSet, Splits


def role_table(splits: Splits) -> tuple[tuple[str, int, str], ...]:
    """Rows (group, number of images, what it is used for), in the order of the splits and their classes."""
    rows = [
        *_rows(splits, splits.train, "training, normal"),
        *_rows(splits, splits.held_out, "held out, normal: calibration and threshold"),
    ]
    if splits.exposure is not None:
        rows.append(("exposure", len(splits.exposure), "training, anomalous"))
    rows += _rows(splits, splits.test_normals, "test, normal")
    if splits.has_test_anomalies:
        rows += _rows(splits, splits.test_anomalies, "test, anomalous")
    return tuple(rows)


def role_lines(splits: Splits) -> tuple[str, ...]:
    """The table as aligned text."""
    rows = role_table(splits)
    widths = max(len(group) for group, _, _ in rows), max(len(f"{count:,}") for _, count, _ in rows)
    return tuple(f"{group:<{widths[0]}}  {count:>{widths[1]},}  {role}" for group, count, role in rows)


def _rows(splits: Splits, images: ImageSet, role: str) -> list[tuple[str, int, str]]:
    counts: dict[int, int] = {}
    for index in images.classes.tolist():
        counts[index] = counts.get(index, 0) + 1
    return [(splits.class_names[index], counts[index], role) for index in sorted(counts)]
