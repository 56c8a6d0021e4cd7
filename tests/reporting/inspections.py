"""Made-up inspections: random pictures, and verdicts that follow from the logits."""

from pathlib import Path

import torch

from cfexplain.inspection.base import NUM_WAY_STEPS, Inspection
from cfexplain.inspection.inspect import verdict_codes
from cfexplain.inspection.repair import blended
from cfexplain.reporting.inspector import InspectorItems
from cfexplain.types import Explanations, ImageSet

ALTERATIONS = ("png", "jpeg", "shift", "blur", "second_detector")
FALSE_ALARM_RATE = 0.05


def make_inspection(
    num_images: int = 4, num_concepts: int = 2, num_bins: int = 2, shape: tuple[int, int, int] = (3, 28, 28),
    seed: int = 0, prefix: str = "test/", num_classes: int = 3,
) -> Inspection:
    """Smooth random images; logits fall along the way to the counterfactual, now and then not far enough."""
    rng = torch.Generator().manual_seed(seed)
    pairs = num_images, num_concepts
    sources = _smooth((num_images,), shape, rng)
    images = _smooth((num_images, num_bins, num_concepts), shape, rng)
    before = torch.randn(num_images, generator=rng) * 2 + 3
    after = torch.randn(*pairs, generator=rng) * 2 - 4
    threshold = -2.0
    steps = torch.linspace(0, 1, NUM_WAY_STEPS)
    way = before[:, None, None] + (after - before[:, None])[..., None] * steps.square()
    shares = torch.linspace(1, 0, num_bins)[None, :, None]
    logits = before[:, None, None] + (after - before[:, None])[:, None] * shares
    survives = torch.rand(*pairs, len(ALTERATIONS), generator=rng) > 0.05
    distance = torch.rand(*pairs, generator=rng) * 1.1
    duplicate_of = torch.full(pairs, -1)
    flipped = after <= threshold
    explanations = Explanations(
        sources=ImageSet(
            images=sources, labels=torch.ones(num_images, dtype=torch.long),
            classes=torch.arange(num_images) % max(num_classes, 1) if num_classes else torch.full((num_images,), -1),
            ids=tuple(f"{prefix}{index:05d}" for index in range(num_images)),
        ),
        images=images, logits=logits, source_logits=before, threshold=threshold,
    )
    repairs = blended(sources[:, None].expand_as(images[:, 0]), images[:, 0], 0.5)
    return Inspection(
        explanations=explanations,
        verdict_codes=verdict_codes(before <= threshold, flipped, survives, distance, duplicate_of),
        position_before=before.sub(-4).div(2).sigmoid(), position_after=after.sub(-4).div(2).sigmoid(),
        alterations=ALTERATIONS, survives=survives, manifold_distance=distance, duplicate_of=duplicate_of,
        way_logits=way, repairs=torch.where(flipped[..., None, None, None], repairs, images[:, 0]),
        repair_logits=torch.where(flipped, torch.tensor(threshold - 0.1), after),
        heatmaps=torch.rand(num_images, *shape[1:], generator=rng) * 2 - 1,
        nearest=_smooth((num_images,), shape, rng), nearest_ids=tuple(f"train/{i:05d}" for i in range(num_images)),
        plausible=_smooth((num_images,), shape, rng),
    )


def sentence(inspection: Inspection, index: int) -> list[str]:
    return [f"Sentence on {inspection.explanations.sources.ids[index]}."]


def items_of(folder: Path, inspections, class_names, sentences=sentence, num_images: int = 1) -> InspectorItems:
    items = InspectorItems(folder, class_names, num_images)
    for inspection in inspections:
        items.add(inspection, [sentences(inspection, index) for index in range(len(inspection.nearest_ids))])
    return items


def _smooth(counts: tuple[int, ...], shape: tuple[int, int, int], rng: torch.Generator) -> torch.Tensor:
    coarse = torch.rand(int(torch.tensor(counts).prod()), shape[0], 4, 4, generator=rng) * 255
    large = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    return large.byte().reshape(*counts, *shape)
