"""Which files are read, and that none of the others runs any code."""

import io
import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from cfexplain.detectors.external.sources import call_factory, copy_file, file_format, Format, read_network
from cfexplain.errors import ConfigError, DataError

IMAGES = torch.rand(4, 3, 16, 16)


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images):
        return self.body(images).mean(dim=(1, 2, 3))


def script(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(path))
    return path


def program(network: nn.Module, path: Path) -> Path:
    batch = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network.eval(), (IMAGES,), dynamic_shapes=batch), path)
    return path


def rewritten(path: Path, copy: Path, change) -> Path:
    """The archive with `change(name, content)` in place of each content; torch reads it."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as other:
        for name in archive.namelist():
            other.writestr(name, change(name, archive.read(name)))
    return copy


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_network(path, None)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_both_formats_are_known_by_their_content_and_score_as_the_network_does(tmp_path):
    network = Network().eval()
    expected = network(IMAGES)
    for path, kind in ((script(network, tmp_path / "a.bin"), Format.torchscript),
                       (program(network, tmp_path / "b.bin"), Format.exported)):
        assert file_format(path, path.read_bytes()) is kind
        torch.testing.assert_close(read_network(path, None)(IMAGES), expected)


@pytest.mark.parametrize("write", [
    lambda value, path: path.write_bytes(pickle.dumps(value)),
    lambda value, path: torch.save(value, path),
    lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    lambda value, path: torch.save({"model": value}, path),
], ids=["pickle", "torch.save", "torch.save before 1.6", "anomalib's export"])
def test_a_pickle_is_refused_and_not_run(tmp_path, write):
    path, trace = tmp_path / "model.pt", tmp_path / "it-ran"
    write(Hostile(trace), path)
    assert "detector.factory=" in refusal(path)
    assert not trace.exists()
    with suppress(Exception):  # torch.load wants more than a bare pickle
        torch.load(path, weights_only=False)
    assert trace.exists()  # it would have


def test_a_pickle_in_the_clothes_of_torchscript_is_not_run(tmp_path):
    trace = tmp_path / "it-ran"
    hostile = pickle.dumps(Hostile(trace))
    path = rewritten(script(Network(), tmp_path / "a.pt"), tmp_path / "b.pt",
                     lambda name, content: hostile if name.endswith(("data.pkl", "constants.pkl")) else content)
    assert "cannot read" in refusal(path)
    assert not trace.exists()


def test_torchscript_that_writes_files_is_refused(tmp_path):
    class Writes(nn.Module):
        def __init__(self, trace: str) -> None:
            super().__init__()
            self.trace = trace

        def forward(self, images):
            torch.save(images, self.trace)
            return images.mean(dim=(1, 2, 3))

    path = script(Writes(str(tmp_path / "it-ran")), tmp_path / "a.pt")
    assert "torch.save, which reaches beyond tensors" in refusal(path)


def model_json(change):
    """For `rewritten`: the program's text with something else in it."""
    return lambda name, content: change(content) if name.endswith("models/model.json") else content


def test_a_program_that_names_other_functions_is_refused(tmp_path):
    path = program(Network(), tmp_path / "a.pt2")
    for target in ("torch.os.system", "torch.ops.load_library", "_operator.call", "#triton:x", "torch.hub.load",
                   "torch.ops.aten.from_file.default", "torch.ops.mine.read.default",
                   "torch.ops.aten.__class__.mro", "torch.ops.aten.relu.overloads"):
        changed = rewritten(path, tmp_path / "b.pt2", model_json(
            lambda content: content.replace(b"torch.ops.aten.relu.default", target.encode())))
        assert f"holds {target}, which reaches beyond tensors" in refusal(changed)


def test_a_program_that_has_text_evaluated_is_refused(tmp_path):
    trace = tmp_path / "it-ran"
    text = f"open('{trace}', 'w')"
    path = program(Network(), tmp_path / "a.pt2")

    def hostile(content: bytes) -> bytes:
        return re.sub(rb'"expr_str": "[^"]*"', f'"expr_str": "{text}"'.encode(), content)

    changed = rewritten(path, tmp_path / "b.pt2", model_json(hostile))
    assert "holds the expression" in refusal(changed)
    assert not trace.exists()
    with pytest.raises(Exception):  # noqa: B017: whatever torch makes of a file object
        torch.export.load(str(changed))
    assert trace.exists()  # torch alone would have run it


def test_a_program_with_a_pickle_inside_is_refused(tmp_path):
    trace, buffer = tmp_path / "it-ran", io.BytesIO()
    torch.save(Hostile(trace), buffer)

    def hostile(name: str, content: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
        return buffer.getvalue() if name.endswith("weight_0") else content

    changed = rewritten(program(Network(), tmp_path / "a.pt2"), tmp_path / "b.pt2", hostile)
    assert "weight_0, a pickled object" in refusal(changed)
    assert not trace.exists()
    with pytest.raises(Exception):  # noqa: B017
        torch.export.load(str(changed))
    assert trace.exists()


def test_a_program_for_which_torch_would_import_a_module_is_refused(tmp_path):
    changed = rewritten(program(Network(), tmp_path / "a.pt2"), tmp_path / "b.pt2", model_json(
        lambda content: content.replace(b'"graph_module"', b'"x": "__enum__", "graph_module"', 1)))
    assert "__enum__" in refusal(changed)


def test_two_entries_of_one_name_are_refused(tmp_path):
    path = program(Network(), tmp_path / "a.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("models/model.json")]
        archive.writestr(name.upper(), b"{}")
    assert "no archive as torch writes it" in refusal(path)


def test_files_that_are_nothing_of_the_kind(tmp_path):
    assert "no model at" in refusal(tmp_path / "missing.pt")
    assert "Is a directory" in refusal(tmp_path)
    (tmp_path / "text.pt").write_text("weights")
    assert "neither a TorchScript file" in refusal(tmp_path / "text.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    assert "neither a TorchScript file" in refusal(tmp_path / "empty.pt")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photos/1.png", b"")
    assert "neither a TorchScript file" in refusal(tmp_path / "photos.zip")
    whole = script(Network(), tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refusal(tmp_path / "half.pt")


def test_another_file_than_the_config_names_is_refused(tmp_path):
    path = script(Network(), tmp_path / "a.pt")
    with pytest.raises(DataError, match="is not the file that the config was made for"):
        read_network(path, "0" * 64)
    with pytest.raises(DataError, match="is not the file"):
        copy_file(path, tmp_path / "copy.pt", "0" * 64)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt"]


def test_factories_that_do_not_give_a_network(tmp_path, monkeypatch):
    (tmp_path / "ours_of_test.py").write_text(
        "def text(): return 'x'\ndef fails(): raise ValueError('no weights')\nimport torch\nvalue = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    for factory, words in (("nosuch_module:make", "cannot be imported: ModuleNotFoundError"),
                           ("ours_of_test:nosuch", "cannot be imported: AttributeError"),
                           ("ours_of_test:fails", "failed when it was called: ValueError: no weights"),
                           ("ours_of_test:value", "failed when it was called: TypeError"),
                           ("ours_of_test:text", "returns str, wanted a torch.nn.Module")):
        with pytest.raises(ConfigError) as caught:
            call_factory(factory)
        assert words in str(caught.value) and factory in str(caught.value)


def test_common_layers_are_not_taken_for_hostile(tmp_path):
    """What detectors are made of: pooling, norms, attention, resizing, distances, switched-off gradients."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.register_buffer("bank", torch.randn(5, 8))

        def forward(self, images):
            size = images.shape[2] // 2
            features = nn.functional.interpolate(self.conv(images), (size, size), mode="bilinear", antialias=True)
            tokens = features.flatten(2).transpose(1, 2)
            tokens = nn.functional.layer_norm(self.attention(tokens, tokens, tokens)[0], (8,))
            with torch.no_grad():
                offset = images.mean(dim=(1, 2, 3))
            nearest = torch.cdist(tokens, self.bank.expand(images.shape[0], -1, -1))  # (N, H * W, 5)
            return nearest.topk(2, dim=2, largest=False).values.flatten(1).amax(dim=1) + offset

    network = Layers().eval()
    for path in (program(network, tmp_path / "a.pt2"), script(network, tmp_path / "a.pt")):
        torch.testing.assert_close(read_network(path, None)(IMAGES[:2]), network(IMAGES[:2]))
