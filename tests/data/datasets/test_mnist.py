"""MNIST: official files, packed and read-only; exposure of every kind; damage and absence in one line."""

from __future__ import annotations

import gzip
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cfexplain.data.exposures.idx import Emnist, Idx
from cfexplain.data.exposures.none import Nothing
from cfexplain.data.datasets.mnist import Mnist
from cfexplain.errors import DataError

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_packed_files_are_read_and_the_root_stays_as_it_was(small_mnist, fields, letters):
    before = snapshot(small_mnist)
    splits = Mnist(**fields).load(letters)
    assert snapshot(small_mnist) == before and not (Path(fields["cache_dir"]) / "unpacked").exists()
    assert torch.bincount(splits.reference.classes).tolist() == [60] * 10
    assert torch.bincount(splits.test.classes).tolist() == [20] * 10
    assert [len(splits.train), len(splits.held_out), len(splits.exposure)] == [54, 6, 50]
    raw = gzip.decompress((small_mnist / "MNIST/raw/t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert splits.test.images.numpy().tobytes() == raw
    assert splits.test.ids[42] == "test/00042" and splits.image_shape == (1, 28, 28)


def test_unpacked_files_hold_the_same(small_mnist, fields, letters):
    packed = Mnist(**fields).load(letters)
    for path in list((small_mnist / "MNIST/raw").iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = Mnist(**fields).load(letters)
    assert (unpacked.train.images == packed.train.images).all()


@pytest.mark.parametrize("normal", ["1", "89", "012345678"])
def test_only_normal_digits_are_trained_on(small_mnist, fields, normal, letters):
    splits = Mnist(**fields | {"normal": list(normal)}).load(letters)
    for images in (splits.train, splits.held_out):
        assert sorted(set(images.classes.tolist())) == [int(digit) for digit in normal] and not images.labels.any()
    is_normal = torch.isin(splits.test.classes, torch.tensor([int(digit) for digit in normal]))
    assert ((splits.test.labels == 0) == is_normal).all()
    assert not set(splits.train.ids) & set(splits.held_out.ids)
    assert len(splits.train) + len(splits.held_out) == 60 * len(normal)


def test_limits_and_seeds(small_mnist, fields, letters):
    limited = fields | {"normal": ["3", "4"], "train_limit": 50, "reference_limit": 30}
    splits = Mnist(**limited).load(replace(letters, limit=7))
    sizes = [len(splits.train) + len(splits.held_out), len(splits.exposure), len(splits.reference), len(splits.test)]
    assert sizes == [50, 7, 30, 200]
    assert Mnist(**limited).load(letters).train.ids == splits.train.ids
    assert Mnist(**limited | {"seed": 1}).load(letters).train.ids != splits.train.ids


def test_emnist_letters_are_turned_upright(small_mnist, fields, write_idx, letters):
    letters = np.random.default_rng(0).integers(256, size=(40, 28, 28)).astype(np.uint8)
    raw = small_mnist / "EMNIST/raw"
    write_idx(raw / "emnist-letters-train-images-idx3-ubyte.gz", letters.transpose(0, 2, 1))  # as NIST stores them
    write_idx(raw / "emnist-letters-train-labels-idx1-ubyte.gz", np.arange(40) % 26 + 1)
    emnist = Emnist(limit=None, seed=0, root=fields["root"], download=False)
    exposure = Mnist(**fields).load(emnist).exposure
    assert len(exposure) == 40 and (exposure.labels == 1).all() and (exposure.classes == -1).all()
    numbers = [int(name.removeprefix("exposure/")) for name in exposure.ids]
    assert (exposure.images[:, 0].numpy() == letters[numbers]).all()
    assert numbers != sorted(numbers)  # shuffled


def test_missing_emnist_says_so(small_mnist, fields, letters):
    with pytest.raises(DataError, match=r"emnist-letters-train-images-idx3-ubyte\.gz.*exposure\.download=true"):
        Mnist(**fields).load(Emnist(limit=None, seed=0, root=fields["root"], download=False))


def test_exposure_that_is_normal_is_removed_and_counted(small_mnist, fields, write_idx, tmp_path, caplog, letters):
    train = Mnist(**fields).load(Nothing(limit=None, seed=0))
    assert train.exposure is None
    ones = train.train.images[:3, 0].numpy()
    others = np.random.default_rng(0).integers(256, size=(10, 28, 28)).astype(np.uint8)
    path = write_idx(tmp_path / "mixed.gz", np.concatenate([others[:5], ones, others[5:]]))
    splits = Mnist(**fields).load(Idx(limit=50, seed=0, images=str(path)))
    assert {image.numpy().tobytes() for image in splits.exposure.images} == {image.tobytes() for image in others}
    assert "removed 3 of 13" in caplog.text
    with pytest.raises(DataError, match="all exposure images are normal"):
        Mnist(**fields).load(Idx(limit=50, seed=0, images=str(write_idx(tmp_path / "ones", ones))))


def test_missing_folder_says_what_to_put_where(tmp_path, fields, letters):
    with pytest.raises(DataError) as caught:
        Mnist(**fields | {"root": str(tmp_path / "nowhere")}).load(letters)
    message = str(caught.value)
    files = ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    for words in ("nowhere/MNIST/raw", *files, "dataset.download=true"):
        assert words in message
    assert "\n" not in message and caught.value.exit_code == 3


def test_only_what_is_missing_is_named(small_mnist, fields, letters):
    (small_mnist / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels") as caught:
        Mnist(**fields).load(letters)
    assert "train-images" not in str(caught.value)


def test_a_failed_download_says_what_to_do(tmp_path, fields, monkeypatch, letters):
    from torchvision.datasets import mnist

    def fail(*args, **kwargs):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(mnist, "download_and_extract_archive", fail)
    with pytest.raises(DataError, match=r"download failed \(.*no route to host.*Put them there") as caught:
        Mnist(**fields | {"root": str(tmp_path / "new"), "download": True}).load(letters)
    assert "\n" not in str(caught.value)


def test_download_leaves_files_that_are_there_alone(small_mnist, fields, letters):
    before = snapshot(small_mnist)
    Mnist(**fields | {"download": True}).load(letters)
    assert snapshot(small_mnist) == before


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"garbage" * 100, lambda raw: b""])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_damaged_files_are_named(small_mnist, fields, name, damage, letters):
    path = small_mnist / "MNIST/raw" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        Mnist(**fields).load(letters)
    assert name in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_labels_that_do_not_fit_the_images(small_mnist, fields, write_idx, letters):
    path = small_mnist / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    write_idx(path, np.arange(199) % 10)
    with pytest.raises(DataError, match="199 labels for 200 images"):
        Mnist(**fields).load(letters)
    write_idx(path, np.arange(200) % 11)
    with pytest.raises(DataError, match="class 10"):
        Mnist(**fields).load(letters)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normal": ["10"]}, "no class '10'"),
        ({"normal": ["-1"]}, "no class '-1'"),
        ({"normal": []}, "empty"),
        ({"normal": ["8", "8"]}, "twice"),
        ({"normal": list("0123456789")}, "all 10 classes"),
        ({"anomalous": list("0123456789")}, "nothing normal"),
        ({"train_limit": 0}, "train_limit"),
        ({"held_out_fraction": 0.0}, "held_out_fraction"),
    ],
)
def test_values_that_cannot_be_are_refused(fields, changes, words):
    with pytest.raises(ValueError, match=words):
        Mnist(**fields | changes)


def test_slugs_are_known_without_files(fields):
    assert Mnist(**fields | {"normal": ["9", "8"], "root": "nowhere"}).slug == "mnist-8_9"
    assert Mnist(**fields | {"anomalous": ["5"]}).slug == "mnist-not_5"
    assert {field.name for field in fields_of(Mnist)} == set(fields)


def test_leave_one_out(small_mnist, fields, letters):
    splits = Mnist(**fields | {"anomalous": ["5"]}).load(letters)
    assert sorted(set(splits.train.classes.tolist())) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert set(splits.test_anomalies.classes.tolist()) == {5}


def test_the_real_mnist_with_omniglot(packs, fields):
    pytest.importorskip("torchvision")
    omniglot = Idx(limit=None, seed=0, images=str(packs / "omniglot/omniglot28-images-idx3-ubyte.gz"))
    splits = Mnist(**fields | {"root": str(packs / "mnist"), "normal": ["8", "9"]}).load(omniglot)
    assert torch.bincount(splits.reference.classes).tolist() == TRAIN_COUNTS
    assert torch.bincount(splits.test.classes).tolist() == TEST_COUNTS
    assert (splits.test.labels == 0).sum() == 974 + 1009
    assert len(splits.held_out) == 585 + 595 and len(splits.train) == 5851 + 5949 - 585 - 595
    assert len(splits.exposure) == 4840
    # The first test images of MNIST are known to everyone: 7 2 1 0 4 1 4 9 5 9.
    assert splits.test.classes[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
