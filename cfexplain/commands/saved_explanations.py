"""counterfactuals.pt: explanations as a plain dict of tensors, and back."""

from __future__ import annotations

from pathlib import Path

from cfexplain.engine import checkpoint
from cfexplain.errors import DataError
from cfexplain.types import Explanations, ImageSet

FILE = "counterfactuals.pt"


def save_explanations(folder: Path, explanations: Explanations, of_test_anomalies: bool) -> None:
    """of_test_anomalies: False for a user's own images, on which no metric can be computed."""
    sources = explanations.sources
    checkpoint.save(folder / FILE, {
        "of_test_anomalies": of_test_anomalies,
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
    """DataError where the file is damaged, or explains images for which there are no metrics."""
    values = checkpoint.load(folder / FILE, remedy)
    if not values.get("of_test_anomalies"):
        raise DataError(f"{folder} explains your own images, and metrics need the test anomalies; {remedy}")
    try:
        sources = ImageSet(images=values["source_images"], labels=values["labels"], classes=values["classes"],
                           ids=tuple(values["ids"]))
        return Explanations(
            sources=sources, images=values["images"], logits=values["logits"],
            source_logits=values["source_logits"], threshold=values["threshold"],
        )
    except KeyError as error:
        raise DataError(f"{folder / FILE} is damaged: no {error}; {remedy}") from error
