"""Small sets of known images; a real detector of glyphs for what only a trained network shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cfexplain.data.exposures.letters import Letters
from cfexplain.data.datasets.glyphs import Glyphs
from cfexplain.detectors.bce import Bce
from cfexplain.detectors.fitting import fit_detector
from cfexplain.detectors.base import Detector
from cfexplain.encoders.conv import Conv
from cfexplain.metrics.classifiers import NetworkRecipe, FeatureSpace, feature_space
from cfexplain.types import Splits
from tests.inspection.formulas import CPU, PixelFeatures, splits_of


@pytest.fixture
def pixel_space() -> FeatureSpace:
    return FeatureSpace(name="pixels", network=PixelFeatures(), device=CPU)


@pytest.fixture
def grey() -> Splits:
    """Normal: 40 flat 16-px images of levels 20 to 59, every fourth held out."""
    levels = torch.arange(20, 60, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16).clone()
    held = torch.arange(40) % 4 == 0
    return splits_of(levels[~held], levels[held])


@dataclass(frozen=True)
class Glyph:
    splits: Splits
    detector: Detector
    second: Detector
    features: FeatureSpace


@pytest.fixture(scope="session")
def glyph(tmp_path_factory) -> Glyph:
    """Coloured digits, normal = red or the digit 1; two detectors of other seeds, and the judge's features."""
    cache_dir: Path = tmp_path_factory.mktemp("cache")
    splits = Glyphs(
        cache_dir=str(cache_dir), held_out_fraction=0.25, normal=["1"], anomalous=None, normal_colours=["red"],
        train_size=1000, test_size=400, reference_size=1200, seed=0,
    ).load(Letters(limit=1000, seed=0))  # fmt: skip
    spec = Bce(embedding_dim=8, steps=150, batch_size=64, learning_rate=3e-3, weight_decay=0.0)
    detectors = [fit_detector(spec, Conv(width=6), splits, seed, CPU, lambda tick: None) for seed in (0, 1000)]
    recipe = NetworkRecipe(width=6, num_features=32, num_steps=100)
    return Glyph(splits, *detectors, feature_space(splits, recipe, cache_dir, CPU))
