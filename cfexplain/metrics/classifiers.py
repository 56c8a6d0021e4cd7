"""Classifiers for evaluation, and the features that images are compared by; no detector or generator ever saw them.

They are small, trained quickly and kept in the cache. Where only one class is known (own folders, MVTec AD), nothing
can be classified and the feature network is left as it is drawn: random embeddings tell sets of images apart too, and
favour no set of classes (Naeem et al., 2020).
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeVar

from cfexplain.checks import check_positive
from cfexplain.data.batches import to_float
from cfexplain.data.reading.cache import write_atomically
from cfexplain.detectors.base import batched_on_cpu
from cfexplain.encoders.conv import ConvEncoder
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.metrics.base import IntervalMetricSpec
from cfexplain.types import ImageShape, Splits

BATCH_SIZE = 128
PEAK_LEARNING_RATE = 3e-3
NUM_FEATURES = 64
RANDOM = "random"
FOLDER = "judges"  # in the cache
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, AttributeError, TypeError, pickle.UnpicklingError)

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound="nn.Module")


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """Of a network trained for evaluation. The seed is its own, not the run's: runs of other seeds share it."""

    width: int
    num_features: int
    num_steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "width", "num_features", "num_steps")


@dataclass(frozen=True, kw_only=True)
class ClassifierMetricSpec(IntervalMetricSpec):
    """A metric that trains a classifier of its own.

    width, num_steps: of that classifier.
    """

    width: int
    num_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "width", "num_steps")

    def recipe(self, seed: int = 0) -> NetworkRecipe:
        return NetworkRecipe(width=self.width, num_features=NUM_FEATURES, num_steps=self.num_steps, seed=seed)


class ImageClassifier(nn.Module):
    """Convolutional encoder, whose output are the features, ReLU, linear head."""

    def __init__(self, image_shape: ImageShape, num_classes: int, recipe: NetworkRecipe) -> None:
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


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """(N, C, H, W) uint8 -> (N, D) float32 on the CPU. Numbers compare only under the same name."""

    name: str
    network: ImageClassifier
    device: torch.device | str

    def __call__(self, images: Tensor) -> Tensor:
        return batched_on_cpu(self.network.features, images, self.device)


def feature_space(
    splits: Splits, recipe: NetworkRecipe, cache_dir: Path, device: torch.device | str
) -> FeatureSpace:
    """Of a classifier of splits.reference's classes; of a random network (name `random`) where there is but one."""
    images, classes, num_classes = splits.reference.images, splits.reference.classes, len(splits.class_names)
    if len(classes.unique()) > 1:
        name = f"classifier-{fingerprint(images, classes, recipe)[:8]}"
        network = train_classifier(images, classes, num_classes, recipe, device, cache_dir)
    else:
        name, network = RANDOM, random_classifier(images, num_classes, recipe, device)
    return FeatureSpace(name=name, network=network, device=device)


def feature_distances(features: Tensor, neighbour_features: Tensor) -> Tensor:
    """(N, D), (T, D) -> (N, T) Euclidean; exactly 0 for equal features, which the faster product form is not."""
    return torch.cdist(features, neighbour_features, compute_mode="donot_use_mm_for_euclid_dist")


def train_classifier(
    images: Tensor, targets: Tensor, num_classes: int, recipe: NetworkRecipe, device: torch.device | str,
    cache_dir: Path | None = None,
) -> ImageClassifier:
    """A frozen classifier. images: (N, C, H, W) uint8; targets: (N,) int64. The global random state stays as it was.

    cache_dir: the same data and recipe are trained on once.
    """
    classifier = _untrained(images, num_classes, recipe).to(device)

    def loss_of(batch: Tensor) -> Tensor:
        return F.cross_entropy(classifier(to_float(images[batch].to(device))), targets[batch].to(device))

    path = None if cache_dir is None else cache_dir / FOLDER / f"{fingerprint(images, targets, recipe)}.pt"
    return train_network(classifier, loss_of, len(images), BATCH_SIZE, recipe, path)


def train_network(
    network: Network, loss_of: Callable[[Tensor], Tensor], num_images: int, batch_size: int, recipe: NetworkRecipe,
    path: Path | None,
) -> Network:
    """Frozen, after recipe.num_steps steps of Adam on the loss of images drawn by their (batch_size,) indices.

    path: of the weights, which are read where they are there and whole, and else written when they are trained.
    """
    drawn = deepcopy(network.state_dict())
    if path is not None and path.exists():
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return network.eval().requires_grad_(False)
        except DAMAGED as error:
            log.warning("%s is damaged (%s); training the judge again", path, error)
            network.load_state_dict(drawn)
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=recipe.num_steps)
    rng = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.num_steps):
        loss = loss_of(torch.randint(num_images, (batch_size,), generator=rng))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    if path is not None:
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        write_atomically(path, lambda file: torch.save(state, file))
    return network.eval().requires_grad_(False)


@no_grad
def random_classifier(
    images: Tensor, num_classes: int, recipe: NetworkRecipe, device: torch.device | str
) -> ImageClassifier:
    """The network as it is drawn, but for its batch norms: they take the statistics of these images, uint8."""
    classifier = _untrained(images, num_classes, recipe).to(device).train()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    for batch in images.split(BATCH_SIZE):
        classifier(to_float(batch.to(device)))
    return classifier.eval().requires_grad_(False)


def fingerprint(images: Tensor, targets: Tensor, recipe: NetworkRecipe) -> str:
    """Sixteen hex digits that change with the data and with the recipe."""
    digest = hashlib.sha256(repr((tuple(images.shape), astuple(recipe))).encode())
    digest.update(images.contiguous().numpy())
    digest.update(targets.contiguous().numpy())
    return digest.hexdigest()[:16]


def _untrained(images: Tensor, num_classes: int, recipe: NetworkRecipe) -> ImageClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        classifier = ImageClassifier(tuple(images.shape[1:]), num_classes, recipe)
        return classifier.to(memory_format=torch.channels_last)
