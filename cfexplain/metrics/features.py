"""The space in which images are compared: features of a judge that neither detector nor generator ever saw.

Where only one class is known (own folders, MVTec AD), nothing can be classified and the network is left as it is drawn:
random embeddings tell sets of images apart too, and favour no set of classes (Naeem et al., 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfexplain.detectors.base import in_batches
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.judges import cached_classifier, fingerprint, ImageClassifier, JudgeRecipe, random_classifier
from cfexplain.types import Splits

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """(N, C, H, W) uint8 -> (N, D) float32 on the CPU. Numbers compare only under the same name."""

    name: str
    network: ImageClassifier
    device: torch.device | str

    def __call__(self, images: Tensor) -> Tensor:
        return in_batches(self.network.features, images, self.device)


def feature_space(
    splits: Splits, recipe: JudgeRecipe, cache_dir: Path, device: torch.device | str
) -> FeatureSpace:
    """Of a classifier of splits.reference's classes; of a random network (name `random`) where there is but one."""
    images, classes, num_classes = splits.reference.images, splits.reference.classes, len(splits.class_names)
    if len(classes.unique()) > 1:
        network = cached_classifier(cache_dir, images, classes, num_classes, recipe, device)
        return FeatureSpace(
            name=f"classifier-{fingerprint(images, classes, recipe)[:8]}", network=network, device=device
        )
    return FeatureSpace(name=RANDOM, network=random_classifier(images, num_classes, recipe, device), device=device)
