"""Networks of torchvision: names, input normalisation, weights from files, and what is said without them."""

import zipfile

import pytest
import torch
from torchvision import models

from cfexplain.encoders.torchvision import MODELS, Torchvision
from cfexplain.errors import DataError

RANDOM = Torchvision(model="resnet18", weights=None)


@pytest.fixture
def weights(tmp_path):
    """A state dict of resnet18 with its 1000 classes, as torchvision's own files are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = models.resnet18(weights=None)
    for name, parameter in network.named_parameters():
        if name.endswith("bn1.bias"):
            parameter.data.fill_(0.1)
    path = tmp_path / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return path, network


def build(path, has_bias=True):
    return Torchvision(model="resnet18", weights=str(path)).build((3, 32, 32), 4, has_bias)


def test_every_model_is_there_and_ends_in_a_linear_layer():
    for name in MODELS:
        with torch.device("meta"):  # no memory, no time
            network = models.get_model(name, weights=None)
        last = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
        assert last.out_features == 1000


def test_given_weights_give_the_features_of_the_model(weights):
    """Against torchvision's own network on images normalised by torchvision's own transform."""
    path, network = weights
    network.fc = torch.nn.Identity()
    encoder = build(path).eval()
    encoder.body.fc = torch.nn.Identity()
    pixels = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    transform = models.ResNet18_Weights.DEFAULT.transforms(crop_size=32, resize_size=32)
    expected = network.eval()(torch.stack([transform(image) for image in pixels]))
    # float32 through 18 layers in another order of normalisation
    torch.testing.assert_close(encoder(pixels / 127.5 - 1), expected, rtol=1e-4, atol=1e-4)


def test_grey_is_three_equal_channels(weights):
    encoder = build(weights[0]).eval()
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)))


def test_without_bias_given_weights_keep_theirs_frozen(weights):
    path, network = weights
    encoder = build(path, has_bias=False)
    norm = encoder.body.layer1[0].bn1
    assert torch.equal(norm.bias, network.layer1[0].bn1.bias) and norm.bias.any()
    assert not norm.bias.requires_grad and not norm.weight.requires_grad
    assert encoder.body.conv1.weight.requires_grad and encoder.body.fc.bias is None


def test_the_last_layer_is_drawn_anew(weights):
    torch.manual_seed(0)
    first = build(weights[0]).body.fc.weight
    torch.manual_seed(1)
    assert not torch.equal(first, build(weights[0]).body.fc.weight)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no weights at .*none.pth. Set encoder.weights"):
        build(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer3.0.conv1.weight"), "it lacks layer3.0.conv1.weight"),
        (lambda state: state.update({"extra.weight": torch.ones(1)}), "also has extra.weight"),
        (lambda state: state.update({"conv1.weight": torch.ones(64, 1, 7, 7)}), "another shape of conv1.weight"),
        (lambda state: state.update({"epoch": 3}), "no plain state dict"),
    ],
)
def test_a_file_of_another_model_is_refused(weights, change, message):
    path, _ = weights
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(DataError, match=message):
        build(path)


def test_a_damaged_file_and_one_that_runs_code_are_refused(weights, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path, _ = weights
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        build(path)
    torch.save({"conv1.weight": Trap()}, path)
    with pytest.raises(DataError, match="damaged"):
        build(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_grows_or_has_gigabytes_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(80 * 2**20))
    with pytest.raises(DataError, match="unpacks to far more"):
        build(path)
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(DataError, match="has 5.0 GB; weights of 4 GB are read"):
        build(path)


def test_default_weights_come_from_the_cache_of_torch(weights, tmp_path, monkeypatch):
    path, network = weights
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    cached = tmp_path / "home" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    assert torch.equal(build("default").body.conv1.weight, network.conv1.weight)


def test_default_weights_without_a_network_say_where_to_put_them(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    message = r"no network.*Put https://\S*resnet18-\w+.pth at \S*checkpoints/resnet18"
    with pytest.raises(DataError, match=message) as error:
        build("default")
    assert "\n" not in str(error.value)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="model must be one of .*Did you mean resnet18"):
        Torchvision(model="resnet81", weights=None)


def test_a_checkpoint_is_read_where_the_given_weights_are_gone(tmp_path):
    spec = Torchvision(model="resnet18", weights=str(tmp_path / "gone.pth"))
    assert sum(part.numel() for part in spec.without_weights.build((3, 32, 32), 4, True).parameters()) > 11e6
    with pytest.raises(DataError):
        spec.build((3, 32, 32), 4, True)
