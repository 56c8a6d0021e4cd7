"""Fitting a detector: contracts over conf/detector/*.yaml, learning, collapse."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from cfexplain.config import build
from cfexplain.detectors.base import DetectorSpec
from cfexplain.detectors.fitting import check_not_collapsed, fit_detector
from cfexplain.detectors.base import build_detector, logits_of
from cfexplain.encoders.conv import Conv
from cfexplain.errors import ConfigError, FitError
from cfexplain.metrics.auroc import auroc
from cfexplain.types import ImageSet, Splits

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "conf" / "detector").glob("*.yaml"))
FILES = [path for path in FILES if path.stem not in ("external", "gaussian")]  # they take no steps: tests of their own
CPU = torch.device("cpu")
ENCODER = Conv(width=4)


def spec_of(path: Path, **values) -> DetectorSpec:
    from omegaconf import OmegaConf

    node = OmegaConf.create(yaml.safe_load(path.read_text(encoding="utf-8")))
    return dataclasses.replace(build(node, DetectorSpec), **values)


def noise(n: int, label: int, seed: int) -> ImageSet:
    """Dark images; anomalies carry a bright bar."""
    images = torch.randint(0, 60, (n, 1, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if label:
        images[:, :, :, 4:8] += 190
    labels = torch.full((n,), label)
    return ImageSet(images=images, labels=labels, classes=labels, ids=tuple(f"{label}/{seed}/{i}" for i in range(n)))


@pytest.fixture
def splits() -> Splits:
    train = noise(300, 0, 0)
    return Splits(
        train=train, held_out=noise(100, 0, 1), exposure=noise(300, 1, 2), test=noise(100, 1, 3), reference=train,
        class_names=("dark", "bar"), factors=None,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_contract(path, splits):
    spec = spec_of(path, steps=60, batch_size=32)
    detector = fit_detector(spec, ENCODER, splits, 0, CPU, lambda tick: None)
    held_out, anomalous = logits_of(detector, splits.held_out.images), logits_of(detector, splits.test.images)
    assert auroc(held_out.numpy(), anomalous.numpy()) > 0.95
    assert (held_out <= detector.threshold).float().mean() == pytest.approx(0.95, abs=0.02)

    images = torch.rand(4, 1, 16, 16).mul(2).sub(1).requires_grad_(True)
    probs = detector.log_probs(images)
    assert ((probs.score >= 0) & (probs.score <= 1)).all()
    probs.log_normal.sum().backward()
    assert images.grad.abs().sum() > 0 and images.grad.isfinite().all()
    assert not any(part.requires_grad for part in detector.parameters())

    again = build_detector(spec, ENCODER, (1, 16, 16), seed=9)
    again.load_state_dict(detector.state_dict())
    torch.testing.assert_close(logits_of(again.eval(), splits.test.images), anomalous)


def test_dsvdd_has_no_way_to_a_constant(splits):
    detector = build_detector(spec_of(ROOT / "conf" / "detector" / "dsvdd.yaml"), ENCODER, (1, 16, 16), seed=0)
    assert not [name for name, _ in detector.named_parameters() if "bias" in name]
    assert detector.embed(torch.zeros(2, 1, 16, 16)).abs().max() < 1e-6


def test_a_collapsed_detector_is_an_error_with_a_name(splits):
    detector = build_detector(spec_of(ROOT / "conf" / "detector" / "hsc.yaml"), ENCODER, (1, 16, 16), seed=0).eval()
    check_not_collapsed(detector, splits)
    torch.nn.init.zeros_(detector.encoder.head.weight)
    with pytest.raises(FitError, match="collapse"):
        check_not_collapsed(detector, splits)


def test_exposure_is_demanded_where_it_is_needed(splits):
    with pytest.raises(ConfigError, match="needs outlier exposure"):
        bce = spec_of(ROOT / "conf" / "detector" / "bce.yaml")
        fit_detector(bce, ENCODER, dataclasses.replace(splits, exposure=None), 0, CPU, lambda tick: None)


@pytest.mark.parametrize("name", ["bce", "hsc", "dsvdd"])
def test_in_bfloat16_a_detector_has_float32_weights_and_nearly_the_same_losses(name, splits):
    ticks = []
    for dtype in (None, torch.bfloat16):
        spec = spec_of(ROOT / "conf" / "detector" / f"{name}.yaml", steps=1)
        detector = fit_detector(spec, ENCODER, splits, 0, CPU, ticks.append, dtype)
        assert all(value.dtype != torch.bfloat16 for value in detector.state_dict().values())
    plain, fast = (tick.values["loss"] for tick in ticks)
    assert plain != fast and fast == pytest.approx(plain, rel=0.02)
