"""Every conf/encoder/*.yaml: sizes, determinism, and no way to a constant where none is allowed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from cfexplain.config import build
from cfexplain.detectors.base import build_detector
from cfexplain.detectors.dsvdd import Dsvdd
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import ConfigError
from tests.conftest import ROOT

CONF = Path(__file__).resolve().parents[2] / "conf" / "encoder"
NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="the package timm is not there (extra: timm)")
NAMES = [
    pytest.param(name, marks=NEEDS_TIMM if name == "timm" else ())
    for name in sorted(file.stem for file in CONF.glob("*.yaml"))
]
SMALL = {"conv": 8, "residual": 32, "convnext_tiny": 32}  # the least side in pixels, 8 where nothing is said
DSVDD = Dsvdd(embedding_dim=5, steps=1, batch_size=2, learning_rate=1e-3, weight_decay=0.0)


def spec(name: str) -> EncoderSpec:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    return build(values, EncoderSpec, "encoder").without_weights  # a random network has no constants of its own


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    # float64: where a deep network starts from random weights, float32 may round the difference of two images away
    encoder = build_detector(DSVDD, spec(name), (1, 32, 32), seed=0).encoder.double()
    images = noise(4, 1, 32, 32).double()
    encoder(images)  # in training mode: the running statistics are there
    encoder.eval()
    images.requires_grad_(True)
    embeddings = encoder(images)
    assert embeddings.shape == (4, 5)
    assert embeddings.std(dim=0).min() > 0  # different images, different places
    embeddings.square().sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().amax(dim=(1, 2, 3)).min() > 0

    constants = [name for name, parameter in encoder.named_parameters() if name.endswith("bias") and parameter.any()]
    assert not constants
    assert not [name for name, part in encoder.named_parameters() if name.endswith("bias") and part.requires_grad]
    norms = [part for part in encoder.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.LayerNorm)]
    assert norms and not any(part.requires_grad for norm in norms for part in norm.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_repeats_itself(name):
    """Dropout and stochastic depth would draw from the global generator."""
    encoder = build_detector(DSVDD, spec(name), (3, 32, 32), seed=0).encoder.train()
    images = noise(4, 3, 32, 32)
    torch.testing.assert_close(encoder(images), encoder(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["residual", "resnet18"])
def test_same_seed_same_weights(name):
    first, again, other = (build_detector(DSVDD, spec(name), (1, 32, 32), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_too_small_is_one_line(name):
    least = SMALL.get(name, 8)
    spec(name).build((1, least, least), 2, True).eval()(noise(1, 1, least, least))
    message = f"encoder={name} needs images of {least}x{least} pixels or more.*{least - 1}"
    with pytest.raises(ConfigError, match=message):
        spec(name).build((1, 64, least - 1), 2, True)


@pytest.mark.parametrize("name", ["conv", "residual", "resnet18"])
def test_larger_images_that_are_not_square(name):
    encoder = spec(name).build((3, 128, 96), 2, True).eval()
    assert encoder(noise(1, 3, 128, 96)).isfinite().all()


def test_residual_is_cheap():
    from torch.utils.flop_counter import FlopCounterMode

    encoder = spec("residual").build((1, 128, 128), 1, True).eval()
    with FlopCounterMode(display=False) as counter:
        encoder(noise(1, 1, 128, 128))
    assert counter.get_total_flops() < 50e6  # 38 million, two for each multiplication that is added


def test_residual_has_shortcuts():
    """With the branches switched off the input still arrives at the head."""
    encoder = spec("residual").build((1, 64, 64), 3, False).eval()
    for block in encoder.stages:
        nn.init.zeros_(block.conv_2.weight)
    embeddings = encoder(noise(2, 1, 64, 64))
    assert not torch.allclose(embeddings[0], embeddings[1])


NARROW_ON_AVX2 = """
import torch
from cfexplain.encoders.residual import Residual
encoder = Residual(width=4).build((1, 32, 32), 1, True).to(memory_format=torch.channels_last)
for _ in range(40):
    encoder(torch.randn(32, 1, 32, 32).contiguous(memory_format=torch.channels_last)).square().mean().backward()
    others = [torch.randn(size) for size in range(1, 2000, 13)]  # blocks of memory that a stray write would hit
"""


def test_a_narrow_residual_network_writes_nothing_outside_its_memory():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", NARROW_ON_AVX2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
