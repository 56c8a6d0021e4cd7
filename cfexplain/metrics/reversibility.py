"""Does the generator keep what it is asked to keep, and find back from where it went?

Composition and reversibility, two axioms of counterfactuals (Monteiro et al., 2023): asked for the score b(x) that the
image has, nothing should change, were it asked ten times; and from a counterfactual asked for b(x), it should come back
to its source. Each step is rounded to 8 bits, so that no way back is hidden in less than a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_positive
from cfexplain.data.batches import to_float, to_uint8
from cfexplain.explanation.explain import alpha_bins_of, FittedModel
from cfexplain.lazy import no_grad, Tensor, torch
from cfexplain.metrics.base import drawn, IntervalMetricSpec, MetricInputs, tell_reader
from cfexplain.metrics.bootstrap import shares_of_concepts
from cfexplain.metrics.distance import l1_distances, level_changes

BATCH_SIZE = 256


@no_grad
def applied(model: FittedModel, images: Tensor, alpha_bins: Tensor, device: torch.device | str) -> Tensor:
    """G(x, a, k) of (N, K, C, H, W) uint8 images, each in its concept, and (N,) bins -> the same, rounded to 8 bits."""
    num_images, num_concepts = images.shape[:2]
    concepts = torch.arange(num_concepts).repeat(num_images)
    conditions = torch.stack([alpha_bins.repeat_interleave(num_concepts), concepts], dim=1)  # (N * K, 2)
    parts = zip(images.flatten(0, 1).split(BATCH_SIZE), conditions.split(BATCH_SIZE), strict=True)
    edited = [to_uint8(model.generator(to_float(part.to(device)), *some.to(device).T)).cpu() for part, some in parts]
    return torch.cat(edited).unflatten(0, (num_images, num_concepts))


@dataclass(frozen=True, kw_only=True)
class Reversibility(IntervalMetricSpec):
    """composition, composition_repeated, reversibility beside reversibility_way; nothing where there is no way back.

    num_images:  explained ones, at most; those that score like normal ones have no way to go and are left out.
    num_repeats: of G behind composition_repeated.
    """

    meanings = {
        "composition": ("mean change of a pixel where G is asked to keep the score, range -1..1", "0"),
        "composition_repeated": ("the same after G has been asked several times in a row", "0"),
        "reversibility": ("mean difference of a pixel from the source, there and back again", "-"),
        "reversibility_way": ("the same there: what the way back has to undo", "-"),
    }

    num_images: int
    num_repeats: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_images", "num_repeats")

    def compute(self, inputs: MetricInputs) -> dict[str, float | str]:
        explanations, num_bins = inputs.explanations, inputs.model.num_alpha_bins
        is_anomalous = alpha_bins_of(explanations.source_logits, num_bins) > 0
        explanations = drawn(explanations.select(is_anomalous.nonzero().flatten()), self.num_images, inputs.seed)
        if not len(explanations.sources):
            tell_reader("reversibility left out: the detector scores no explained image as anomalous")
            return {}
        bins, there = alpha_bins_of(explanations.source_logits, num_bins), explanations.counterfactuals
        back = applied(inputs.model, there, bins, inputs.device)
        if torch.equal(back, there):
            tell_reader(
                "reversibility left out: the generator has no way back. It makes no image more anomalous, as "
                "generator=patches and generator.rises=false, so that keeping an image is no merit"
            )
            return {}
        sources = explanations.sources.images[:, None].expand_as(there)
        kept = repeated = applied(inputs.model, sources, bins, inputs.device)
        for _ in range(self.num_repeats - 1):
            repeated = applied(inputs.model, repeated, bins, inputs.device)
        values: dict[str, float | str] = {}
        for key, images in {"composition": kept, "composition_repeated": repeated, "reversibility": back}.items():
            values |= shares_of_concepts(key, _distances(sources, images), inputs.seed, self.num_resamples)
        return values | {"reversibility_way": float(_distances(sources, there).mean())}


def _distances(sources: Tensor, images: Tensor) -> np.ndarray:
    """(N, K): mean |y - x| in [-1, 1] units."""
    return l1_distances(level_changes(sources, images))
