"""Frechet distance of counterfactuals to normal images, in units of the anomalies' distance (Heusel et al., 2017).

On features of our own network it is not the FID of the literature; the network's name stands beside the number.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.error import URLError

from cfexplain.checks import check_positive
from cfexplain.errors import DataError
from cfexplain.files import weights_file
from cfexplain.lazy import fid, kid, nn, no_grad, Tensor, torch
from cfexplain.metrics.base import MetricInputs, MetricSpec, tell_reader
from cfexplain.metrics.classifiers import NetworkRecipe, feature_space, RANDOM
from cfexplain.types import Explanations

FEW_IMAGES = 2048  # below, the FID's bias is large; KID has none
INCEPTION_FEATURES = 2048


class FeatureNetwork(Enum):
    CLASSIFIER = "classifier"
    INCEPTION = "inception"


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """FID of two sets of features, (N, D) and (M, D) float."""
    features_as_they_are = nn.Identity()
    features_as_they_are.num_features = first.shape[1]  # type: ignore[assignment]
    metric = fid.FrechetInceptionDistance(feature=features_as_they_are)
    metric.update(first, real=True)
    metric.update(second, real=False)
    return max(0.0, float(metric.compute()))  # rounding leaves the distance of equal sets at about -1e-6


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """KID of two sets of n features each, over all of them: (n, D) float. Unbiased, so it may be below 0."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)
        metric = kid.KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=min(len(first), len(second)))
    metric.update(first, real=True)
    metric.update(second, real=False)
    with torch.random.fork_rng(devices=[]):  # torchmetrics permutes the images by the global generator
        torch.manual_seed(0)
        return float(metric.compute()[0])


def one_per_source(explanations: Explanations, sources: Tensor) -> Tensor:
    """(n, C, H, W): one counterfactual of each of these sources, concepts in turn, so that images are independent."""
    turns = sources.new_tensor(range(len(sources))) % explanations.num_concepts
    return explanations.counterfactuals[sources, turns]


@dataclass(frozen=True, kw_only=True)
class Fid(MetricSpec):
    """fid_normalized = fid_counterfactual / fid_anomaly, each against normal test images; KID beside few images."""

    meanings = {
        "fid_normalized": ("distance to normal images; 1 = as far as the anomalies", "0"),
        "fid_counterfactual": ("FID, normal test images vs counterfactuals", "0"),
        "fid_anomaly": ("FID, normal test images vs anomalies", "-"),
        "fid_features": ("network whose features FID and KID compare", ""),
        "fid_images": ("images a side behind FID and KID", ""),
        "kid_counterfactual": ("KID, normal test images vs counterfactuals", "0"),
        "kid_anomaly": ("KID, normal test images vs anomalies", "-"),
    }

    features: FeatureNetwork
    weights_path: str | None
    num_features: int
    width: int
    num_steps: int

    def __post_init__(self) -> None:
        check_positive(self, "num_features", "width", "num_steps")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        network, features = self._features(inputs)
        normal, counterfactual, anomalous = (features.get(key) for key in ("normal", "counterfactual", "anomalous"))
        num_images = len(normal)
        if num_images < 2:
            raise DataError(f"FID needs 2 images a side and the test set has {num_images}. Leave fid out.")
        values: dict[str, float | str] = {
            "fid_counterfactual": frechet_distance(normal, counterfactual),
            "fid_features": network,
            "fid_images": num_images,
        }
        if anomalous is None:
            tell_reader("fid_anomaly and fid_normalized left out: there are no test anomalies")
        else:
            values["fid_anomaly"] = distance = frechet_distance(normal, anomalous)
            if distance > 0:
                values["fid_normalized"] = values["fid_counterfactual"] / distance
            else:
                tell_reader("fid_normalized left out: the anomalies are at distance 0 from the normal images")
        if num_images < FEW_IMAGES:
            message = f"FID on {num_images} images a side, fewer than {FEW_IMAGES}: biased upwards; read KID beside it"
            tell_reader(message)
            values["kid_counterfactual"] = kernel_distance(normal, counterfactual)
            if anomalous is not None:
                values["kid_anomaly"] = kernel_distance(normal, anomalous)
        return values

    def _features(self, inputs: MetricInputs) -> tuple[str, dict[str, Tensor]]:
        """The feature network's name and, by kind, the features of as many images each, (n, D) float64."""
        normals, explained = inputs.splits.test_normals.images, inputs.explanations.sources.images
        num_images = min(len(normals), len(explained))
        rng = torch.Generator().manual_seed(inputs.seed)
        normals = normals[torch.randperm(len(normals), generator=rng)[:num_images]]
        sources = torch.randperm(len(explained), generator=rng)[:num_images]
        sets = {"normal": normals, "counterfactual": one_per_source(inputs.explanations, sources)}
        if inputs.splits.has_test_anomalies:
            sets["anomalous"] = explained[sources]
        if self.features is FeatureNetwork.INCEPTION:
            return _inception_features(sets, self.weights_path, inputs.device)
        return self._classifier_features(sets, inputs)

    def _classifier_features(self, sets: dict[str, Tensor], inputs: MetricInputs) -> tuple[str, dict[str, Tensor]]:
        recipe = NetworkRecipe(width=self.width, num_features=self.num_features, num_steps=self.num_steps)
        space = feature_space(inputs.splits, recipe, inputs.cache_dir, inputs.device)
        if space.name == RANDOM:
            tell_reader("FID on features of a random network: the training images are of one class, so none is trained")
        features = {key: space(part).double() for key, part in sets.items()}
        size = features["normal"].square().mean().sqrt()  # KID's cubic kernel, unlike FID's ratio, depends on the scale
        return space.name, {key: part / size for key, part in features.items()}


@no_grad
def _inception_features(
    sets: dict[str, Tensor], weights_path: str | None, device: torch.device | str
) -> tuple[str, dict[str, Tensor]]:
    """torchmetrics' Inception on uint8 RGB; it resizes by itself."""
    name = "inception" if weights_path is None else f"inception-{_checked_digest(Path(weights_path))[:8]}"
    network = _inception(weights_path).to(device)

    def features_of(images: Tensor) -> Tensor:
        batches = images.expand(-1, 3, -1, -1).split(64)  # grey: three equal channels
        return torch.cat([network(batch.to(device)).double().cpu() for batch in batches])

    return name, {key: features_of(images) for key, images in sets.items()}


def _inception(weights_path: str | None):
    way_out = "Set metric.fid.weights_path to a file of its weights, or use metric.fid.features=classifier."
    try:
        metric = fid.FrechetInceptionDistance(INCEPTION_FEATURES, feature_extractor_weights_path=weights_path)
    except ModuleNotFoundError as error:
        hint = 'Run "pip install torch-fidelity tqdm", or use metric.fid.features=classifier.'
        raise DataError(f"metric.fid.features=inception needs the package torch-fidelity. {hint}") from error
    except URLError as error:
        raise DataError(f"cannot download the Inception weights ({error.reason}). {way_out}") from error
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{weights_path} does not hold the weights of torch-fidelity's Inception. {way_out}") from error
    return metric.inception


def _checked_digest(path: Path) -> str:
    """SHA-256 of a weights file that holds tensors and nothing else.

    torch-fidelity unpickles without restriction, which would run code hidden in the file; so it is read safely first.
    """
    if not path.is_file():
        way_out = "Set metric.fid.weights_path, or metric.fid.features=classifier."
        raise DataError(f"no Inception weights at {path}. {way_out}")
    try:
        torch.load(weights_file(path), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is no file of weights, or a damaged one. Fetch it again.") from error
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
