"""split.csv: which image played which part in a run."""

from __future__ import annotations

from cfexplain.types import class_name, Splits


def split_rows(splits: Splits) -> list[dict[str, object]]:
    """One row per image; `class` is empty where an exposure image belongs to none."""
    roles = {"train": splits.train, "held_out": splits.held_out, "exposure": splits.exposure, "test": splits.test}
    names = splits.class_names
    return [
        {"id": image_id, "role": role, "class": class_name(index, names), "label": label}
        for role, part in roles.items() if part is not None
        for image_id, index, label in zip(part.ids, part.classes.tolist(), part.labels.tolist(), strict=True)
    ]
