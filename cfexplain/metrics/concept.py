"""Can the concepts be told apart from the image pairs? By R, which helped to shape them, and by a stranger."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.checks import check_share
from cfexplain.detectors.base import batched_on_cpu
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.base import MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import share_with_interval
from cfexplain.metrics.classifiers import ClassifierMetricSpec, train_classifier


def split_sources(num_sources: int, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of sources to train on and to test on, at least one each; so no pair of a source leaks to the other."""
    order = torch.randperm(num_sources, generator=torch.Generator().manual_seed(seed))
    num_test = min(max(1, round(test_fraction * num_sources)), num_sources - 1)
    return order[num_test:], order[:num_test]


def concept_pairs(sources: Tensor, counterfactuals: Tensor) -> Tensor:
    """(N, C, H, W), (N, K, C, H, W) uint8 -> (N, K, 2C, H, W): source and counterfactual, channel after channel."""
    return torch.cat([sources[:, None].expand_as(counterfactuals), counterfactuals], dim=2)


@dataclass(frozen=True, kw_only=True)
class Concept(ClassifierMetricSpec):
    """concept_accuracy_joint and concept_accuracy_fresh, the honest one."""

    meanings = {
        "concept_accuracy_joint": ("concepts told apart by the trained-along classifier", "1"),
        "concept_accuracy_fresh": ("concepts told apart by a fresh classifier", "1"),
    }

    test_fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "test_fraction")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        explanations = inputs.explanations
        if explanations.num_concepts < 2 or len(explanations.sources) < 2:
            counts = f"{explanations.num_concepts} concept(s), {len(explanations.sources)} image(s)"
            tell_reader(f"concept accuracy left out: it needs two of each, not {counts}")
            return {}
        pairs = concept_pairs(explanations.sources.images, explanations.counterfactuals)
        concepts = torch.arange(pairs.shape[1]).expand(len(pairs), -1)  # (N, K), of each pair
        device, values = inputs.device, {}
        if (trained_along := inputs.model.concept_classifier) is None:
            tell_reader("concept_accuracy_joint left out: the generator has no concept classifier of its own")
        else:
            logits = batched_on_cpu(lambda batch: trained_along(*batch.chunk(2, dim=1)), pairs, device)
            values = {"concept_accuracy_joint": float((logits.argmax(dim=-1) == concepts).double().mean())}

        train, test = split_sources(len(pairs), self.test_fraction, inputs.seed)
        train_pairs, train_concepts = pairs[train].flatten(0, 1), concepts[train].flatten()
        fresh = train_classifier(train_pairs, train_concepts, pairs.shape[1], self.recipe(inputs.seed), device)
        is_right_fresh = (batched_on_cpu(fresh, pairs[test], device).argmax(dim=-1) == concepts[test]).numpy()
        return values | share_with_interval(
            "concept_accuracy_fresh", is_right_fresh, inputs.seed, self.num_resamples
        )
