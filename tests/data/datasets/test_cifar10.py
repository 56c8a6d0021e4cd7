"""CIFAR-10 in its three forms, the same images from each; damage and absence in one line."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfexplain.data.reading import image_cache
from cfexplain.data.reading.cifar import CIFAR10, CIFAR100
from cfexplain.data.datasets.cifar10 import Cifar10
from cfexplain.data.exposures.cifar100 import Cifar100
from cfexplain.data.exposures.none import Nothing
from cfexplain.errors import DataError
from cfexplain.types import Augmentation

NOTHING = Nothing(limit=None, seed=0)
NUM_TRAIN, NUM_TEST = 100, 30


@pytest.fixture
def fields(fields, tmp_path):
    return fields | {"normal": ["ship"], "root": str(tmp_path / "root"), "flip": True, "crop_padding": 4}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Noise, 10 training and 3 test images a class, as the .npz form holds them."""
    rng = np.random.default_rng(0)
    counts = {"train": NUM_TRAIN, "test": NUM_TEST}
    images = {f"x_{part}": rng.integers(256, size=(n, 32, 32, 3), dtype=np.uint8) for part, n in counts.items()}
    return images | {f"y_{part}": rng.permutation(np.arange(n) % 10) for part, n in counts.items()}


@pytest.fixture
def npz(arrays, tmp_path) -> Path:
    path = tmp_path / "small.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def official(arrays, tmp_path, monkeypatch) -> Path:
    """torchvision's pickled batches (rows of 3072 bytes, channels first), with their checksums in place of the true."""
    from torchvision import datasets

    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name: str, part: str, chosen: slice) -> list[str]:
        rows = arrays[f"x_{part}"][chosen].transpose(0, 3, 1, 2).reshape(-1, 3072)
        return write(name, {"data": rows, "labels": arrays[f"y_{part}"][chosen].tolist()})

    batches = [batch(f"data_batch_{i + 1}", "train", slice(20 * i, 20 * i + 20)) for i in range(5)]
    meta = write("batches.meta", {"label_names": list(CIFAR10.class_names)})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch", "test", slice(None))])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return folder


@pytest.fixture
def image_folder(arrays, tmp_path) -> Path:
    top = tmp_path / "files" / "any name"
    for part in ("train", "test"):
        for index, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            path = top / part / CIFAR10.class_names[label] / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return top


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder.parent / "pack"), "zip", folder.parent, folder.name))


def pictures_by_bytes(dataset: Cifar10) -> list[set[tuple[bytes, int]]]:
    """Pixels and class of each image, of the training and of the test part."""
    parts = [dataset.read(is_train) for is_train in (True, False)]
    return [{(image.tobytes(), int(c)) for image, c in zip(p.images, p.classes, strict=True)} for p in parts]


def test_all_forms_hold_the_same_images(fields, arrays, npz, official, image_folder):
    expected = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"].transpose(0, 3, 1, 2), arrays[f"y_{part}"].tolist()
        expected.append({(image.tobytes(), label) for image, label in zip(images, labels, strict=True)})
    roots = [npz, official.parent, image_folder, image_folder.parent, zipped(image_folder)]
    for root in roots:
        assert pictures_by_bytes(Cifar10(**fields | {"root": str(root)})) == expected, root


def test_arrays_and_official_files_keep_their_order(fields, arrays, npz, official):
    for root in (npz, official.parent):
        found = Cifar10(**fields | {"root": str(root)}).read(is_train=True)
        assert (found.images == arrays["x_train"].transpose(0, 3, 1, 2)).all() and found.images.flags["C_CONTIGUOUS"]
        assert found.classes.tolist() == arrays["y_train"].tolist() and found.ids[42] == "train/00042"


def test_splits_of_a_class(fields, npz):
    splits = Cifar10(**fields | {"root": str(npz)}).load(NOTHING)
    assert [len(splits.train), len(splits.held_out)] == [9, 1]
    assert set(splits.train.classes.tolist()) == {8} == set(splits.test_normals.classes.tolist())
    assert [len(splits.test_normals), len(splits.test_anomalies)] == [3, 27]
    assert splits.augmentation == Augmentation(flip=True, crop_padding=4) and splits.image_shape == (3, 32, 32)


@pytest.mark.parametrize(("flip", "padding"), [(False, 0), (True, 0), (False, 31)])
def test_augmentation_is_off_when_both_are(fields, flip, padding):
    expected = Augmentation(flip=flip, crop_padding=padding) if flip or padding else None
    assert Cifar10(**fields | {"flip": flip, "crop_padding": padding}).augmentation == expected


@pytest.mark.parametrize("padding", [-1, 32])
def test_padding_that_cannot_be_reflected_is_refused(fields, padding):
    with pytest.raises(ValueError, match=f"crop_padding must lie in 0 to 31 pixels, got {padding}"):
        Cifar10(**fields | {"crop_padding": padding})


def test_decoded_files_come_from_the_cache_until_one_changes(fields, image_folder, monkeypatch):
    dataset = Cifar10(**fields | {"root": str(image_folder)})
    first = dataset.read(is_train=False)
    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "read_image", lambda *_: pytest.fail("decoded although cached"))
        assert (dataset.read(is_train=False).images == first.images).all()
    path = image_folder / first.ids[7]
    Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(path)
    changed = dataset.read(is_train=False).images
    assert (changed[7] == 9).all() and (changed[6] == first.images[6]).all()


def test_classes_may_be_missing_from_train(fields, image_folder):
    for name in CIFAR10.class_names:
        if name not in ("ship", "truck"):
            shutil.rmtree(image_folder / "train" / name)
    splits = Cifar10(**fields | {"root": str(image_folder)}).load(NOTHING)
    assert torch.bincount(splits.reference.classes, minlength=10).tolist() == [0] * 8 + [10, 10]
    with pytest.raises(DataError, match=r"training images lack normal .*\(normal: cat\)"):
        Cifar10(**fields | {"root": str(image_folder), "normal": ["cat"]}).load(NOTHING)


def error_of(fields: dict, root: Path, is_train: bool = True) -> str:
    with pytest.raises(DataError) as caught:
        Cifar10(**fields | {"root": str(root)}).read(is_train)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 3
    return message


def test_nothing_there_says_what_to_put_where(fields, tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        message = error_of(fields, root)
        for words in (str(root), "cifar-10-python.tar.gz", ".npz", "train/<class>", "dataset.download=true"):
            assert words in message
    exposure = Cifar100(limit=None, seed=0, root=str(tmp_path / "empty"), download=False)
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz into exposure\.root"):
        exposure.pictures(request_of(tmp_path))


def request_of(tmp_path: Path):
    from cfexplain.data.exposures.base import ExposureRequest

    normals = np.zeros((1, 3, 32, 32), np.uint8)
    return ExposureRequest(
        normals=normals, learned=normals, others=None, class_names=(), cache_dir=str(tmp_path / "cache")
    )


def test_other_datasets_beside_it_are_not_taken_for_it(fields, tmp_path):
    (tmp_path / "data/screw/train/good").mkdir(parents=True)
    assert error_of(fields, tmp_path / "data").startswith("no CIFAR10 at")


def test_damaged_and_missing_batches_are_told_apart(fields, official):
    batch = official / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    assert f"damaged in {official} (md5 differs): data_batch_3." in error_of(fields, official.parent)
    batch.unlink()
    message = error_of(fields, official.parent)
    assert "data_batch_3" in message and "data_batch_2" not in message and "dataset.download=true" in message


def test_a_batch_that_is_not_the_official_one_is_never_unpickled(fields, official, tmp_path):
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    (official / "test_batch").write_bytes(pickle.dumps(Touch()))
    assert "md5 differs" in error_of(fields, official.parent, is_train=False)
    assert not (tmp_path / "run").exists()


def test_a_failed_download_says_what_to_do(fields, monkeypatch, tmp_path):
    from torchvision.datasets import cifar

    def fail(*args, **kwargs):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", fail)
    message = error_of(fields | {"download": True}, tmp_path / "new")
    assert "download failed (no route to host)" in message and "cifar-10-python.tar.gz" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": None}, "lacks an array"),
        ({"x_train": np.zeros((4, 32, 32, 3), np.float32)}, r"x_train must be .* uint8 .* float32"),
        ({"x_train": np.zeros((4, 3, 32, 32), np.uint8)}, r"x_train must be .*\(4, 3, 32, 32\)"),
        ({"x_train": np.zeros((0, 32, 32, 3), np.uint8)}, "N > 0"),
        ({"y_train": np.zeros(NUM_TRAIN - 1, int)}, "y_train must hold 100 whole numbers"),
        ({"y_train": np.zeros(NUM_TRAIN)}, "y_train must hold 100 whole numbers.*float64"),
        ({"y_train": np.full(NUM_TRAIN, 10)}, "y_train must lie in 0 to 9, it holds 10 to 10"),
        ({"y_train": np.full(NUM_TRAIN, -1)}, "y_train must lie in 0 to 9, it holds -1"),
        ({"y_train": np.array([None] * NUM_TRAIN)}, "cannot read"),  # would need pickle
        ({"class_names": np.array(CIFAR10.class_names[::-1])}, "class_names"),
    ],
)
def test_arrays_of_another_form_are_refused(fields, arrays, tmp_path, changes, words):
    kept = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **kept)
    message = error_of(fields, tmp_path / "bad.npz")
    assert message.count("bad.npz") == 1
    with pytest.raises(DataError, match=words):
        raise DataError(message)


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "empty", "missing"])
def test_damaged_arrays_are_named(fields, npz, damage):
    whole = npz.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    content = {"cut": whole[:middle], "flipped": flipped, "garbage": b"garbage" * 99, "empty": b""}
    npz.unlink()
    if damage in content:
        npz.write_bytes(content[damage])
    assert f"cannot read {npz}" in error_of(fields, npz)


def test_wrong_image_folders_are_named(fields, image_folder):
    (image_folder / "train/ship").rename(image_folder / "train/ships")
    assert "train/ships is none of CIFAR10's classes. Did you mean ship?" in error_of(fields, image_folder)
    shutil.rmtree(image_folder / "train")
    assert "has no folder train" in error_of(fields, image_folder)
    (image_folder / "train/ship").mkdir(parents=True)
    assert "no images in" in error_of(fields, image_folder)
    (image_folder / "train/ship/1.png").write_bytes(b"garbage")
    assert "train/ship/1.png" in error_of(fields, image_folder)


def test_a_zip_without_classes_is_no_cifar(fields, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    assert f"no CIFAR10 at {tmp_path / 'other.zip'}" in error_of(fields | {"download": True}, tmp_path / "other.zip")


def test_the_real_subset_with_cifar100(packs, fields):
    exposure = Cifar100(limit=None, seed=0, root=str(packs / "cifar100/cifar100-subset.npz"), download=False)
    splits = Cifar10(**fields | {"root": str(packs / "cifar10/cifar10-subset.npz")}).load(exposure)
    assert torch.bincount(splits.reference.classes).tolist() == [1000] * 10
    assert torch.bincount(splits.test.classes).tolist() == [200] * 10
    assert [len(splits.train), len(splits.held_out), len(splits.exposure)] == [900, 100, 10_000]
    assert (splits.exposure.labels == 1).all() and splits.exposure.ids[0].startswith("exposure/")
    # Ships lie under a bluish sky: blue is the brightest channel on average, and frogs' the dimmest.
    means = [splits.test.images[splits.test.classes == c].float().mean(dim=(0, 2, 3)) for c in (8, 6)]
    assert means[0].argmax() == 2 and means[1].argmin() == 2


def test_the_names_of_cifar100_are_in_the_order_of_its_labels(packs):
    with np.load(packs / "cifar100/cifar100-subset.npz") as arrays:
        assert tuple(arrays["class_names"].tolist()) == CIFAR100.class_names


@pytest.mark.slow
def test_the_real_zip_of_two_whole_classes(packs, fields):
    dataset = Cifar10(**fields | {"root": str(packs / "cifar10/cifar10-ship-automobile.zip")})
    train, test = dataset.read(is_train=True), dataset.read(is_train=False)
    assert [len(train), len(test)] == [9_891, 9_966] and set(train.classes.tolist()) == {1, 8}
    # The lossless images are those of the arrays, found by their official index.
    with np.load(packs / "cifar10/cifar10-subset.npz") as arrays:
        chosen = arrays["index_train"][arrays["y_train"] == 8]
        expected = arrays["x_train"][arrays["y_train"] == 8]
    places = {name: index for index, name in enumerate(train.ids)}
    found = train.images[[places[f"train/ship/{index:05d}.webp"] for index in chosen]]
    assert (found == expected.transpose(0, 3, 1, 2)).all()
