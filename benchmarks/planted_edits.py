"""What each metric says of edits whose worth is known, beside those of a trained run on coloured digits.

    python benchmarks/planted_edits.py run=<folder of a train run> [key=value ...]

prints a table: the run's own counterfactuals; the true edits (concept 0 paints the digit in a normal colour, concept 1
puts a held-out normal digit of the same colour in its place); descent along the gradient of the run's detector; the
nearest normal training image; and nothing. The words are those of `cfexplain evaluate`. Composition and reversibility
are asked of generators. The true one has the first concept alone and paints back in the one colour that it knows, as a
red digit does not say what it was; the gradient's goes up until the image scores as anomalous; the nearest image's back
to the nearest exposure image.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn, Tensor

from cfexplain import compose, config
from cfexplain.command_line import parse
from cfexplain.commands.judging_config import EvaluateConfig
from cfexplain.data.batches import to_float, to_uint8
from cfexplain.detectors.base import Detector, logits_of, LogProbs
from cfexplain.explanation.explain import explain_images
from cfexplain.metrics.base import drawn_rows, MetricInputs
from cfexplain.metrics.baseline_methods import descended, GradientRecipe, nearest_indices, Norm
from cfexplain.metrics.oracle import brightness, dominant_colours
from cfexplain.types import Explanations, FactorRule, ImageSet, Splits

NUM_IMAGES = 500
CPU = torch.device("cpu")
METRICS = "metric=[validity,oracle,reversibility,minimality,coverage,variation,family]"
GRADIENT = GradientRecipe(norm=Norm.l2, radius=0.5, step_size=0.01, num_steps=50)  # as conf/metric/baselines.yaml
KEYS = (
    "validity", "oracle_normal_rate", "composition", "composition_repeated", "reversibility", "reversibility_way",
    "minimality", "nearer_than_normals", "density", "coverage", "training_distance", "label_variation",
    "label_variation_changed", "family_validity",
)
OF_REAL_IMAGES = (
    "density_normals", "coverage_normals", "label_variation_alike", "label_variation_accuracy",
    "family_validity_normals", "family_validity_before", "family_auroc",
)
Edit = Callable[[Tensor], Tensor]  # of (N, C, H, W) uint8 -> the same


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to make counterfactuals.

    images:    (N, K, C, H, W) uint8, of the N sources.
    generator: G(x, a, k), for composition and reversibility, in the first `reversed_concepts` concepts.
    """

    images: Tensor
    generator: Callable[[Tensor, Tensor, Tensor], Tensor]
    reversed_concepts: int = 1


def main(words: list[str]) -> None:
    warnings.simplefilter("ignore")
    settings = config.build_root(next(iter(compose.compositions(parse("evaluate", [METRICS, *words])))), EvaluateConfig)
    trained = settings.open()
    splits, model, seed = trained.load_splits(), trained.load_model(CPU), trained.config.seed
    if splits.factors is None:
        sys.exit("the run's dataset knows no factors, so nothing tells which edit is true: take dataset=glyphs")
    anomalies = splits.test_anomalies
    sources = anomalies.select(drawn_rows(len(anomalies), NUM_IMAGES, seed))
    own = explain_images(model, sources, CPU)
    inputs = MetricInputs(
        splits=splits, model=model, explanations=own, explain=lambda images: explain_images(model, images, CPU),
        fit_detector=lambda other, number: model.detector, device=CPU, seed=seed, cache_dir=Path(settings.cache_dir),
        test_normal_logits=logits_of(model.detector, splits.test_normals.images, CPU), metrics=settings.metric,
    )
    ours = Way(images=own.counterfactuals, generator=model.generator, reversed_concepts=own.num_concepts)
    found = {name: measured(inputs, way) for name, way in {"ours": ours, **planted(inputs, own)}.items()}
    print(f"{len(sources)} test anomalies, {trained.slug}, seed {seed}\n")
    print_table(found)


def planted(inputs: MetricInputs, own: Explanations) -> dict[str, Way]:
    splits, detector, sources = inputs.splits, inputs.model.detector, own.sources.images
    normals, exposure = splits.train.images, splits.exposure.images

    def down(images: Tensor) -> Tensor:
        return descended(detector, images, own.threshold, GRADIENT, CPU)

    def up(images: Tensor) -> Tensor:
        return descended(Turned(detector), images, 0.0, GRADIENT, CPU)

    def nearest_of(others: Tensor) -> Edit:
        return lambda images: others[nearest_indices(images, others, CPU)]

    colours = [rgb for number, rgb in enumerate(splits.factors.palette) if number not in splits.factors.normal_colours]
    recoloured, to_normal = painter(splits.factors), nearest_of(normals)
    reshaped = with_normal_shape(own.sources, splits)
    return {
        "true edit": Way(
            images=torch.stack([recoloured(sources), reshaped], dim=1),
            generator=generator_of(recoloured, lambda images: unless_anomalous(images, splits.factors, colours[0])),
        ),
        "gradient": Way(images=down(sources)[:, None], generator=generator_of(down, up)),
        "nearest": Way(images=to_normal(sources)[:, None], generator=generator_of(to_normal, nearest_of(exposure))),
        "nothing": Way(images=sources[:, None], generator=lambda images, bins, concepts: images),
    }


class Turned(nn.Module):
    """The detector's score the other way round."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def log_probs(self, images: Tensor) -> LogProbs:
        found = self.detector.log_probs(images)
        return LogProbs(log_anomalous=found.log_normal, log_normal=found.log_anomalous)


def generator_of(down: Edit, up: Edit) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """G(x, a, k) in [-1, 1] of an edit for a = 0 and one for all other bins."""
    def generator(images: Tensor, bins: Tensor, concepts: Tensor) -> Tensor:
        levels = to_uint8(images)
        for edit, asked in ((down, bins == 0), (up, bins > 0)):
            if asked.any():
                levels[asked] = edit(levels[asked])
        return to_float(levels)

    return generator


def painter(rule: FactorRule) -> Edit:
    return lambda images: painted(images, rule.palette[rule.normal_colours[0]])


def painted(images: Tensor, rgb: tuple[int, int, int]) -> Tensor:
    """Each as bright as it was, in one colour."""
    colour = torch.tensor(rgb).view(3, 1, 1) / 255
    return (brightness(images) * colour).round().byte()


def unless_anomalous(images: Tensor, rule: FactorRule, rgb: tuple[int, int, int]) -> Tensor:
    """Those in a normal colour are painted in `rgb`."""
    is_normal = torch.isin(torch.from_numpy(dominant_colours(images, rule.palette)), torch.tensor(rule.normal_colours))
    return torch.where(is_normal[:, None, None, None], painted(images, rgb), images)


def with_normal_shape(sources: ImageSet, splits: Splits) -> Tensor:
    """(N, C, H, W): of each the nearest held-out image of a normal shape in the colour of the source."""
    num_colours = len(splits.factors.colour_names)
    held_out, edited = splits.held_out, torch.empty_like(sources.images)
    has_shape = torch.isin(held_out.classes // num_colours, torch.tensor(splits.factors.normal_shapes))
    for colour in (sources.classes % num_colours).unique().tolist():
        rows = sources.classes % num_colours == colour
        choice = held_out.images[has_shape & (held_out.classes % num_colours == colour)]
        edited[rows] = choice[nearest_indices(sources.images[rows], choice, CPU)]
    return edited


def measured(inputs: MetricInputs, way: Way) -> dict[str, float | str]:
    """By all metrics of the run's config."""
    values: dict[str, float | str] = {}
    for name, metric in inputs.metrics.items():
        shown = way.images[:, : way.reversed_concepts] if name == "reversibility" else way.images
        bins = inputs.model.num_alpha_bins
        logits = logits_of(inputs.model.detector, shown, CPU)
        explanations = replace(
            inputs.explanations, images=shown[:, None].expand(-1, bins, *shown.shape[1:]),
            logits=logits[:, None].expand(-1, bins, -1),
        )
        model = replace(inputs.model, generator=way.generator, num_concepts=shown.shape[1])
        values |= metric.compute(replace(inputs, explanations=explanations, model=model))
    return values


def print_table(found: dict[str, dict[str, float | str]]) -> None:
    print(f"| key | {' | '.join(found)} |\n|{'---|' * (1 + len(found))}")
    for key in KEYS:
        cells = [f"{values[key]:.3f}" if key in values else "-" for values in found.values()]
        print(f"| `{key}` | {' | '.join(cells)} |")
    first = next(iter(found.values()))
    print("\nof real images: " + ", ".join(f"`{key}` {first[key]:.3f}" for key in OF_REAL_IMAGES if key in first))


if __name__ == "__main__":
    main(sys.argv[1:])
