"""A finished run whose truth is known: small glyphs, a small detector, and a generator that is a formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cfexplain.data.exposures.letters import Letters
from cfexplain.data.datasets.glyphs import Glyphs
from cfexplain.detectors.bce import Bce
from cfexplain.detectors.fitting import fit_detector
from cfexplain.detectors.base import logits_of
from cfexplain.encoders.conv import Conv as ConvEncoderSpec
from cfexplain.explanation.explain import explain_images
from cfexplain.explanation.explain import FittedModel
from cfexplain.metrics.base import MetricInputs
from cfexplain.types import NORMAL


class PlantedGenerator(nn.Module):
    """Concept 0 paints the image red, concept 1 puts a real 1 of the same colour in its place; alpha bin 1 keeps it."""

    def __init__(self, one: Tensor) -> None:
        super().__init__()
        self.register_buffer("one", one.float() / 255)  # (H, W), 0..1

    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        light = (images + 1) / 2
        red = torch.zeros_like(light)
        red[:, 0] = light.amax(dim=1)
        colours = light.flatten(2).amax(dim=2)[:, :, None, None]  # (N, 3, 1, 1)
        edited = torch.where((concepts == 0).view(-1, 1, 1, 1), red, colours * self.one)
        return torch.where((alpha_bins == 0).view(-1, 1, 1, 1), edited, light) * 2 - 1


class PlantedConceptClassifier(nn.Module):
    """Concept 0 is what has no green or blue left."""

    def forward(self, source: Tensor, edited: Tensor) -> Tensor:
        is_red = ((edited[:, 1:] + 1).amax(dim=(1, 2, 3)) < 0.1).float()
        return torch.stack([is_red, 1 - is_red], dim=1)


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> MetricInputs:
    cache_dir: Path = tmp_path_factory.mktemp("cache")
    splits = Glyphs(
        cache_dir=str(cache_dir), held_out_fraction=0.2, normal=["1"], anomalous=None, normal_colours=["red"],
        train_size=400, test_size=400, reference_size=1800, seed=0,
    ).load(Letters(limit=400, seed=0))  # fmt: skip
    spec = Bce(embedding_dim=8, steps=80, batch_size=32, learning_rate=3e-3, weight_decay=0.0)
    device = torch.device("cpu")

    def fit(splits, seed):
        return fit_detector(spec, ConvEncoderSpec(width=4), splits, seed, device, lambda tick: None)

    reference = splits.reference
    one = reference.images[(reference.classes // 6 == 1).nonzero()[0, 0]].amax(dim=0)
    model = FittedModel(
        detector=fit(splits, 0), generator=PlantedGenerator(one), concept_classifier=PlantedConceptClassifier(),
        num_concepts=2, num_alpha_bins=2,
    )  # fmt: skip
    return MetricInputs(
        splits=splits,
        model=model,
        explanations=explain_images(model, splits.test_anomalies, device),
        explain=lambda images: explain_images(model, images, device),
        fit_detector=fit,
        device=device,
        seed=0,
        cache_dir=cache_dir,
        test_normal_logits=logits_of(model.detector, splits.test_normals.images, device),
    )


@pytest.fixture(scope="session")
def only_normals(planted) -> MetricInputs:
    """The same without test anomalies: the explanations are of exposure images."""
    splits = planted.splits
    test = splits.test.select(splits.test.labels == NORMAL)
    return replace(planted, splits=replace(splits, test=test), explanations=planted.explain(splits.exposure.first(60)))
