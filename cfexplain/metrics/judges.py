"""Judges: small classifiers that no detector or generator ever saw, trained quickly and kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

from cfexplain.data.batches import to_float
from cfexplain.data.reading.cache import write_atomically
from cfexplain.encoders.conv import ConvEncoder
from cfexplain.lazy import F, nn, Tensor, torch
from cfexplain.metrics.base import check_positive, IntervalMetricSpec
from cfexplain.types import ImageShape

BATCH_SIZE = 128
PEAK_LEARNING_RATE = 3e-3
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, AttributeError, TypeError, pickle.UnpicklingError)

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound="nn.Module")


class ImageClassifier(nn.Module):
    """Convolutional encoder, whose output are the features, ReLU, linear head."""

    def __init__(self, image_shape: ImageShape, num_classes: int, recipe: JudgeRecipe) -> None:
        super().__init__()
        self.num_features = recipe.num_features
        self.encoder = ConvEncoder(image_shape, recipe.num_features, recipe.width)
        self.head = nn.Linear(recipe.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, num_features)."""
        return self.encoder(images)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, num_classes) logits."""
        return self.head(self.features(images).relu())


def train_classifier(
    images: Tensor, targets: Tensor, num_classes: int, recipe: JudgeRecipe, device: torch.device | str
) -> ImageClassifier:
    """A frozen classifier. images: (N, C, H, W) uint8; targets: (N,) int64. The global random state stays as it was."""
    classifier = _untrained(images, num_classes, recipe).to(device).train()
    optimiser = torch.optim.Adam(classifier.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=recipe.num_steps)
    rng = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.num_steps):
        batch = torch.randint(len(images), (BATCH_SIZE,), generator=rng)
        logits = classifier(to_float(images[batch].to(device)))
        loss = F.cross_entropy(logits, targets[batch].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


def cached_classifier(
    cache_dir: Path, images: Tensor, targets: Tensor, num_classes: int, recipe: JudgeRecipe, device: torch.device | str
) -> ImageClassifier:
    """`train_classifier`, or what it gave for the same data and recipe before. A damaged file is made again."""
    path = cache_dir / "judges" / f"{fingerprint(images, targets, recipe)}.pt"
    train = lambda: train_classifier(images, targets, num_classes, recipe, device)  # noqa: E731
    return kept_network(path, _untrained(images, num_classes, recipe), train, device)


def kept_network(path: Path, untrained: Network, train: Callable[[], Network], device: torch.device | str) -> Network:
    """The network with the weights kept at `path`, or what `train` gives, whose weights are then kept there."""
    if path.exists():
        try:
            untrained.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return untrained.to(device).eval().requires_grad_(False)
        except DAMAGED as error:
            log.warning("%s is damaged (%s); training the judge again", path, error)
    network = train()
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda file: torch.save(state, file))
    return network


def random_classifier(
    images: Tensor, num_classes: int, recipe: JudgeRecipe, device: torch.device | str
) -> ImageClassifier:
    """The network as it is drawn, but for its batch norms: they take the statistics of these images, uint8."""
    classifier = _untrained(images, num_classes, recipe).to(device).train()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in images.split(BATCH_SIZE):
            classifier(to_float(batch.to(device)))
    return classifier.eval().requires_grad_(False)


def fingerprint(images: Tensor, targets: Tensor, recipe: Any) -> str:
    """Sixteen hex digits that change with the data and with the recipe."""
    digest = hashlib.sha256(repr((tuple(images.shape), astuple(recipe))).encode())
    digest.update(images.contiguous().numpy())
    digest.update(targets.contiguous().numpy())
    return digest.hexdigest()[:16]


def _untrained(images: Tensor, num_classes: int, recipe: JudgeRecipe) -> ImageClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return ImageClassifier(tuple(images.shape[1:]), num_classes, recipe)


NUM_FEATURES = 64


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe:
    """The seed is the judge's own, not the run's: runs of different seeds share one judge."""

    width: int
    num_features: int
    num_steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "width", "num_features", "num_steps")


@dataclass(frozen=True, kw_only=True)
class JudgedMetricSpec(IntervalMetricSpec):
    """A metric whose judge is a classifier of its own.

    width, num_steps: of that classifier.
    """

    width: int
    num_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "width", "num_steps")

    def recipe(self, seed: int = 0) -> JudgeRecipe:
        return JudgeRecipe(width=self.width, num_features=NUM_FEATURES, num_steps=self.num_steps, seed=seed)
