"""Exposure from files: Fashion-MNIST, Omniglot in MNIST's form, CIFAR-100."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.data.exposures import omniglot
from cfexplain.data.exposures.base import ExposureRequest
from cfexplain.data.exposures.cifar100 import Cifar100
from cfexplain.data.exposures.idx import Fashion
from cfexplain.data.exposures.omniglot import Omniglot, to_mnist_form
from cfexplain.data.reading.idx import read_idx_images
from cfexplain.errors import DataError

SIDE = 105


@pytest.fixture
def request_for(tmp_path):
    """For a dataset of grey 28x28 images."""
    normals = np.zeros((1, 1, 28, 28), np.uint8)
    return ExposureRequest(
        normals=normals, learned=normals, others=None, class_names=(), cache_dir=str(tmp_path / "cache")
    )


def omniglot_spec(root: Path, **changes: object) -> Omniglot:
    return Omniglot(**{"limit": None, "seed": 0, "root": str(root), "download": False, "leave_out": []} | changes)


def fashion_spec(root: Path, **changes: object) -> Fashion:
    return Fashion(**{"limit": None, "seed": 0, "root": str(root), "download": False} | changes)


@pytest.fixture
def drawings(tmp_path) -> Path:
    """Two folders of drawings, as the official zips unpack; the Latin ones are in both."""
    root = tmp_path / "omniglot"
    rng = np.random.default_rng(0)
    for alphabet, folders in (("Greek", (1,)), ("Latin", (1, 2)), ("Tagalog", (2,))):
        for shot in (1, 2, 3):
            drawing = np.full((SIDE, SIDE), 255, np.uint8)  # black strokes on white
            top, left = rng.integers(10, 50, size=2)
            drawing[top : top + 40, left] = drawing[top, left : left + 20 + shot] = 0
            for number in folders:
                path = root / f"images_background_small{number}" / alphabet / "character01" / f"{shot:04d}_01.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawing).convert("1").save(path)
    return root


def zipped(folder: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target / folder.name), "zip", folder.parent, folder.name))


def test_a_stroke_is_thickened_shrunk_and_centred():
    # A line 58 high and 1 wide becomes 60 x 3, a third of that is 20 x 1, with its middle between rows 13 and 14.
    strokes = np.zeros((SIDE, SIDE), np.uint8)
    strokes[5:63, 80] = 255
    image = to_mnist_form(strokes)
    assert (image[4:24, 13:15] == 255).any(axis=1).all() and image.astype(int).sum() == 20 * 255
    # One that fills the width at the very top: 105 x 2 shrinks to 20 x 1, never to nothing.
    strokes = np.zeros((SIDE, SIDE), np.uint8)
    strokes[0, :] = 255
    image = to_mnist_form(strokes)
    assert (image.max(axis=0) > 0).sum() == 20 and (image.max(axis=1) > 0).sum() == 1 and image.max() == 255


def test_the_centre_of_mass_lies_in_the_middle_wherever_it_was_drawn():
    strokes = np.zeros((SIDE, SIDE), np.uint8)
    strokes[10:50, 10] = strokes[45:50, 10:30] = 255  # an L, heavier at the bottom left
    image = to_mnist_form(strokes)
    mass = image / image.sum()
    centre = [(mass.sum(axis=axis) * np.arange(28)).sum() for axis in (1, 0)]
    assert np.abs(np.array(centre) - 13.5).max() <= 0.5  # whole pixels
    assert (to_mnist_form(np.roll(strokes, (40, 50), axis=(0, 1))) == image).all()


def test_drawings_in_two_folders_count_once(drawings, request_for):
    found = omniglot_spec(drawings).pictures(request_for)
    names = [f"{alphabet}/character01/000{shot}_01" for alphabet in ("Greek", "Latin", "Tagalog") for shot in (1, 2, 3)]
    assert list(found.ids) == [f"exposure/{name}" for name in names]
    assert found.images.shape == (9, 28, 28) and (found.images.reshape(9, -1).max(axis=1) == 255).all()
    assert (found.classes == -1).all()


def test_folders_zips_and_torchvisions_place_hold_the_same(drawings, request_for, tmp_path):
    expected = omniglot_spec(drawings).pictures(request_for).images
    packed = tmp_path / "data/omniglot-py"
    zips = [zipped(drawings / f"images_background_small{number}", packed) for number in (1, 2)]
    for root in (packed, packed.parent):
        assert (omniglot_spec(root).pictures(request_for).images == expected).all(), root
    for root in (zips[0], drawings / "images_background_small1"):
        assert (omniglot_spec(root).pictures(request_for).images == expected[:6]).all(), root


def test_alphabets_can_be_left_out(drawings, request_for):
    found = omniglot_spec(drawings, leave_out=["Latin", "Greek"]).pictures(request_for)
    assert {name.split("/")[1] for name in found.ids} == {"Tagalog"} and len(found) == 3
    with pytest.raises(DataError, match=r"exposure.leave_out: no alphabet 'latin' in .* Did you mean Latin\?"):
        omniglot_spec(drawings, leave_out=["latin"]).pictures(request_for)
    with pytest.raises(DataError, match="leaves no alphabet"):
        omniglot_spec(drawings, leave_out=["Latin", "Greek", "Tagalog"]).pictures(request_for)
    with pytest.raises(ValueError, match="leave_out needs root to hold the drawings"):
        omniglot_spec(Path("x-idx3-ubyte.gz"), leave_out=["Latin"])


def test_converted_drawings_come_from_the_cache_until_one_changes(drawings, request_for, monkeypatch):
    first = omniglot_spec(drawings).pictures(request_for).images
    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "to_mnist_form", lambda *_: pytest.fail("converted although cached"))
        assert (omniglot_spec(drawings).pictures(request_for).images == first).all()
    drawing = np.full((SIDE, SIDE), 255, np.uint8)
    drawing[20:90, 20:90] = 0
    Image.fromarray(drawing).save(drawings / "images_background_small1/Greek/character01/0001_01.png")
    changed = omniglot_spec(drawings).pictures(request_for).images
    assert (changed[0] != first[0]).any() and (changed[1:] == first[1:]).all()


def test_damaged_blank_and_missing_drawings_are_named(drawings, request_for, tmp_path):
    path = drawings / "images_background_small2/Tagalog/character01/0002_01.png"
    for content in (b"garbage", path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"Tagalog/character01/0002_01\.png"):
            omniglot_spec(drawings).pictures(request_for)
    Image.new("1", (SIDE, SIDE), 1).save(path)
    with pytest.raises(DataError, match=r"Tagalog/character01/0002_01\.png is blank"):
        omniglot_spec(drawings).pictures(request_for)
    for root in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere.zip"):
        with pytest.raises(DataError, match=r"no Omniglot drawings in .*images_background\.zip.*download=true"):
            omniglot_spec(root).pictures(request_for)


def test_fashion_needs_the_training_images_alone(tmp_path, request_for, write_idx):
    images = np.random.default_rng(0).integers(256, size=(30, 28, 28)).astype(np.uint8)
    for root, suffix in (("packed", ".gz"), ("loose", "")):
        write_idx(tmp_path / root / f"FashionMNIST/raw/train-images-idx3-ubyte{suffix}", images)
        found = fashion_spec(tmp_path / root).pictures(request_for)
        assert (found.images == images).all() and found.ids[7] == "exposure/00007"
    path = tmp_path / "packed/FashionMNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        fashion_spec(tmp_path / "packed").pictures(request_for)


@pytest.mark.parametrize(
    ("spec", "module", "words"),
    [
        (fashion_spec, "mnist", r"FashionMNIST/raw: train-images-idx3-ubyte\.gz.*exposure\.download=true"),
        (omniglot_spec, "omniglot", r"no Omniglot drawings"),
    ],
)
def test_nothing_is_fetched_unasked_and_a_failed_download_says_what_to_do(
    spec, module, words, tmp_path, request_for, monkeypatch
):
    import importlib

    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(importlib.import_module(f"torchvision.datasets.{module}"), "download_and_extract_archive", fail)
    with pytest.raises(DataError, match=words):
        spec(tmp_path / "new").pictures(request_for)
    assert not calls
    with pytest.raises(DataError, match=rf"download failed \(.*no route to host.*{words}") as caught:
        spec(tmp_path / "new", download=True).pictures(request_for)
    assert calls and "\n" not in str(caught.value)


def test_cifar100_gives_its_training_images(tmp_path, request_for):
    rng = np.random.default_rng(0)
    parts = {"x_train": 12, "x_test": 3}
    arrays = {name: rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8) for name, count in parts.items()}
    np.savez(tmp_path / "small.npz", **arrays, y_train=np.arange(12) + 88, y_test=np.arange(3))
    found = Cifar100(limit=None, seed=0, root=str(tmp_path / "small.npz"), download=False).pictures(request_for)
    assert (found.images == arrays["x_train"].transpose(0, 3, 1, 2)).all() and (found.classes == -1).all()
    assert list(found.ids) == [f"exposure/{number:05d}" for number in range(12)]


def test_the_real_omniglot_becomes_what_the_pack_says(packs, request_for):
    expected = read_idx_images(packs / "omniglot/omniglot28-images-idx3-ubyte.gz")
    found = omniglot_spec(packs / "omniglot").pictures(request_for)
    assert len(found) == 4840 and (found.images == expected).all()
    lines = (packs / "omniglot/omniglot28-classes.txt").read_text().split("\n")
    assert [f"exposure/{line.split(' ', 1)[1]}" for line in lines if line] == list(
        dict.fromkeys(name.rsplit("/", 1)[0] for name in found.ids)
    )
    as_idx = omniglot_spec(packs / "omniglot/omniglot28-images-idx3-ubyte.gz").pictures(request_for)
    assert (as_idx.images == expected).all()
    strict = omniglot_spec(packs / "omniglot", leave_out=["Latin", "Greek"]).pictures(request_for)
    assert len(strict) == 3840


def test_the_real_fashion_subset(packs, request_for, tmp_path):
    target = tmp_path / "root/FashionMNIST/raw/train-images-idx3-ubyte.gz"
    target.parent.mkdir(parents=True)
    target.symlink_to(packs / "fashion-mnist-train/fashion-subset-images-idx3-ubyte.gz")
    found = fashion_spec(tmp_path / "root").pictures(request_for)
    assert found.images.shape == (10_000, 28, 28)
    assert 60 < found.images.mean() < 85  # clothes fill far more of a picture than digits, whose mean is 33
