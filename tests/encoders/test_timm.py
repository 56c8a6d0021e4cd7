"""Networks of timm: their features, weights from files, and what is said without package or weights."""

import dataclasses

import pytest
import torch

from cfexplain.encoders import timm as module
from cfexplain.encoders.timm import Timm
from cfexplain.errors import ConfigError, DataError

timm = pytest.importorskip("timm", reason="the package timm is not there (extra: timm)")
RANDOM = Timm(model="resnet10t", weights=None, layers=(1, 2), trainable=False, normalize_exposure=False)


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_weights_of_a_file_give_the_maps_of_the_model(tmp_path):
    torch.manual_seed(7)
    own = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(own.state_dict(), tmp_path / "own.pth")
    built = dataclasses.replace(RANDOM, weights=str(tmp_path / "own.pth")).build_features((3, 64, 64)).eval()
    mean, std = (torch.tensor(own.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = own.forward_intermediates((images() - mean) / std, indices=[1, 2], intermediates_only=True)
    found = built(images() * 2 - 1)
    assert [part.shape[1] for part in found] == list(built.num_features)
    for given, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)  # float32, another order of normalisation


def test_stages_after_the_last_layer_are_not_there():
    names = [name for name, _ in RANDOM.build_features((3, 64, 64)).body.named_parameters()]
    assert any("layer2" in name for name in names) and not any("layer3" in name for name in names)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"model": "resnet10"}, ConfigError, "no model of timm. Did you mean resnet1"),
        ({"layers": (1, 9)}, ConfigError, r"gives no maps of layers \[1, 9\]"),
        ({"weights": "gone.pth"}, DataError, "no weights at gone.pth"),
        ({"weights": "default"}, DataError, "no weights for timm's resnet10t .*set encoder.weights to the path"),
    ],
)
def test_what_is_not_there_is_one_line(values, error, message, monkeypatch):
    def offline(model, pretrained, **rest):
        if pretrained:
            raise OSError("no network")
        return create(model, **rest)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(module.timm, "create_model", offline, raising=False)
    with pytest.raises(error, match=message) as raised:
        dataclasses.replace(RANDOM, **values).build((3, 64, 64), 2, True)
    assert "\n" not in str(raised.value)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "cfexplain\[timm\]"'):
        RANDOM.build((3, 64, 64), 2, True)
