"""What a counterfactual truly became, where the dataset knows its factors: a digit classifier and the dominant colour.

The detector has no say here. A red blob is normal by the colour rule even if it is no digit: oracle_legible_rate and
oracle_other_kept tell. The classifier's confidence is that of a network and too high on odd images; read it as a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cfexplain.detectors.base import batched_on_cpu
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.base import MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval
from cfexplain.metrics.classifiers import ClassifierMetricSpec, ImageClassifier, train_classifier
from cfexplain.types import FactorRule

INK = 32  # an image without a brighter pixel is empty: it has neither shape nor colour
LEGIBLE = 0.5
TRUSTWORTHY = 0.9
NONE = -1


class Factor(IntEnum):
    SHAPE = 0
    COLOUR = 1


@dataclass(frozen=True)
class SeenFactors:
    """Of each image: index of shape and of colour (-1 in an empty one), whether a shape is legible."""

    shapes: np.ndarray
    colours: np.ndarray
    is_legible: np.ndarray


def brightness(images: Tensor) -> Tensor:
    """(..., C, H, W) -> (..., 1, H, W), the brightest channel: a digit looks the same in all colours."""
    return images.amax(dim=-3, keepdim=True)


def dominant_colours(images: Tensor, palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(..., 3, H, W) uint8 -> (...) palette entry at the smallest angle to the brightness-weighted mean colour."""
    pixels = images.double()
    means = (pixels * brightness(pixels)).sum(dim=(-2, -1))  # (..., 3); only the direction counts
    entries = means.new_tensor(palette)
    entries = entries / entries.norm(dim=1, keepdim=True)
    return (means @ entries.T).argmax(dim=-1).numpy()  # |mean| is common to all entries


def seen_factors(
    images: Tensor, classifier: ImageClassifier, palette: tuple[tuple[int, int, int], ...], device: torch.device | str
) -> SeenFactors:
    """(..., 3, H, W) uint8 -> what is seen in each, (...) arrays."""
    bright = brightness(images)
    probabilities = batched_on_cpu(classifier, bright, device).softmax(dim=-1)
    is_empty = (bright.amax(dim=(-3, -2, -1)) < INK).numpy()
    return SeenFactors(
        shapes=np.where(is_empty, NONE, probabilities.argmax(dim=-1).numpy()),
        colours=np.where(is_empty, NONE, dominant_colours(images, palette)),
        is_legible=~is_empty & (probabilities.amax(dim=-1) > LEGIBLE).numpy(),
    )


def purity(has_normal_shape: np.ndarray, has_normal_colour: np.ndarray) -> tuple[tuple[Factor, ...], np.ndarray]:
    """Which factor each of K concepts changes, and where it changed that alone to a normal value, (N, K) bool.

    Of all such assignments the one under which most is pure. Two (N, K) bool arrays. From K = 2 on each factor has at
    least one concept: two that do the same are not pure.
    """
    is_pure = np.stack([has_normal_shape & ~has_normal_colour, has_normal_colour & ~has_normal_shape])  # (2, N, K)
    shares = is_pure.mean(axis=1)  # (2, K)
    factors = shares.argmax(axis=0)
    if len(factors) > 1 and len(set(factors)) == 1:  # all alike: the one that loses least takes the other factor
        factors[np.abs(shares[0] - shares[1]).argmin()] ^= 1
    concepts = np.arange(len(factors))
    return tuple(map(Factor, factors)), is_pure[factors, :, concepts].T


def other_kept(
    seen: SeenFactors, shapes: np.ndarray, colours: np.ndarray, factors: tuple[Factor, ...]
) -> np.ndarray:
    """(N, K) bool: the factor that the concept should leave alone has the source's value.

    seen: (N, K) arrays; shapes, colours: (N,) of the sources.
    """
    same_shape, same_colour = seen.shapes == shapes[:, None], seen.colours == colours[:, None]
    return np.where(np.array(factors) == Factor.SHAPE, same_colour, same_shape)


def true_factors(classes: Tensor, rule: FactorRule) -> tuple[np.ndarray, np.ndarray]:
    """Shape and colour of each of (N,) class indices."""
    return np.divmod(classes.numpy(), len(rule.colour_names))


def share_among(key: str, hits: np.ndarray, of_interest: np.ndarray) -> dict[str, float]:
    """Share of hits among those of interest, two bool arrays of one shape; no key where there are none of them."""
    return {key: float(hits[of_interest].mean())} if of_interest.any() else {}


@dataclass(frozen=True, kw_only=True)
class Oracle(ClassifierMetricSpec):
    """oracle_* keys; nothing where the dataset knows no factors. Its classifier is of shapes."""

    meanings = {
        "oracle_normal_rate": ("share that truly are normal, by the known factors", "1"),
        "oracle_concept_purity": ("share in which only the concept's own factor became normal", "1"),
        "oracle_other_kept": ("share of the truly normal ones in which the other factor kept its value", "1"),
        "oracle_legible_rate": ("share on which the oracle is sure of the class", "1"),
        "oracle_accuracy": ("the oracle's own accuracy on real test images", "1"),
        "oracle_assignment": ("factor that each concept stands for", ""),
        "oracle_purity": ("share in which only the concept's own factor became normal", "1"),
    }

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        rule, explanations = inputs.splits.factors, inputs.explanations
        if rule is None:
            return {}
        if not inputs.splits.has_test_anomalies:
            tell_reader("oracle left out: there are no test anomalies, and of exposure images no factor is known")
            return {}
        reference = inputs.splits.reference
        classifier = train_classifier(
            brightness(reference.images), reference.classes // len(rule.colour_names), len(rule.shape_names),
            self.recipe(), inputs.device, inputs.cache_dir,
        )
        seen = seen_factors(explanations.counterfactuals, classifier, rule.palette, inputs.device)  # (N, K)
        normal_shape = np.isin(seen.shapes, rule.normal_shapes)
        normal_colour = np.isin(seen.colours, rule.normal_colours)
        factors, is_pure = purity(normal_shape, normal_colour)
        kept = other_kept(seen, *true_factors(explanations.sources.classes, rule), factors)

        values: dict[str, float | str] = {"oracle_accuracy": self._accuracy(inputs, classifier, rule)}
        is_normal = normal_shape | normal_colour
        for key, hits in (("normal_rate", is_normal), ("concept_purity", is_pure)):
            values |= share_with_interval(f"oracle_{key}", hits, inputs.seed, self.num_resamples)
        values |= share_among("oracle_other_kept", kept, is_normal)
        values["oracle_legible_rate"] = float(seen.is_legible.mean())
        for concept in range(len(factors)):
            normal = is_normal[:, concept]
            values[f"oracle_normal_rate_concept_{concept}"] = float(normal.mean())
            values[f"oracle_purity_concept_{concept}"] = float(is_pure[:, concept].mean())
            values |= share_among(f"oracle_other_kept_concept_{concept}", kept[:, concept], normal)
        values["oracle_assignment"] = " ".join(f"{k}:{factor.name.lower()}" for k, factor in enumerate(factors))
        return values

    def _accuracy(self, inputs: MetricInputs, classifier: ImageClassifier, rule: FactorRule) -> float:
        test = inputs.splits.test
        seen = seen_factors(test.images, classifier, rule.palette, inputs.device)
        shapes, colours = true_factors(test.classes, rule)
        accuracy = float(((seen.shapes == shapes) & (seen.colours == colours)).mean())
        if accuracy < TRUSTWORTHY:
            tell_reader(f"the oracle is right on {accuracy:.0%} of the test images only; do not lean on its numbers")
        return accuracy
