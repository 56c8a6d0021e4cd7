"""counterfactuals.pt: explanations as a plain dict of tensors, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfexplain.commands.shard import merge_command
from cfexplain.engine import checkpoint
from cfexplain.errors import DataError
from cfexplain.reporting.run_folder import parent_runs
from cfexplain.types import Explanations, ImageSet

FILE = "counterfactuals.pt"


@dataclass(frozen=True, kw_only=True)
class SavedExplanations:
    """of_test_anomalies: False for a user's own images, on which no metric can be computed.

    class_names: of the dataset; empty for own images. shard: what shard.shard_record gives, or None for all images.
    """

    explanations: Explanations
    of_test_anomalies: bool
    class_names: tuple[str, ...]
    shard: dict[str, Any] | None


def save_explanations(folder: Path, saved: SavedExplanations) -> None:
    explanations, sources = saved.explanations, saved.explanations.sources
    checkpoint.save(folder / FILE, {
        "of_test_anomalies": saved.of_test_anomalies,
        "class_names": list(saved.class_names),
        "shard": saved.shard,
        "source_images": sources.images,
        "labels": sources.labels,
        "classes": sources.classes,
        "ids": list(sources.ids),
        "images": explanations.images,
        "logits": explanations.logits,
        "source_logits": explanations.source_logits,
        "threshold": explanations.threshold,
    })


def load_explanations(folder: Path, remedy: str) -> Explanations:
    """For metrics: DataError where they are damaged, a part only, or of images for which there are no metrics."""
    saved = load_saved(folder, remedy)
    if not saved.of_test_anomalies:
        raise DataError(f"{folder} explains your own images, and metrics need the test anomalies; {remedy}")
    if saved.shard is not None and saved.shard["num_shards"] > 1:
        index, num_shards = saved.shard["index"], saved.shard["num_shards"]
        command = merge_command(parent_runs(folder)[0], folder)
        raise DataError(
            f"{folder} is shard {index}/{num_shards}, and metrics need all images; merge the {num_shards} shards "
            f"first: {command}"
        )
    return saved.explanations


def load_saved(folder: Path, remedy: str) -> SavedExplanations:
    values = checkpoint.load(folder / FILE, remedy)
    try:
        sources = ImageSet(images=values["source_images"], labels=values["labels"], classes=values["classes"],
                           ids=tuple(values["ids"]))
        explanations = Explanations(
            sources=sources, images=values["images"], logits=values["logits"],
            source_logits=values["source_logits"], threshold=values["threshold"],
        )
    except KeyError as error:
        raise DataError(f"{folder / FILE} is damaged: no {error}; {remedy}") from error
    return SavedExplanations(
        explanations=explanations,
        of_test_anomalies=bool(values.get("of_test_anomalies")),
        class_names=tuple(values.get("class_names", ())),
        shard=values.get("shard"),
    )
