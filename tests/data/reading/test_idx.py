"""idx files: what is whole is read, what is not is named."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from cfexplain.data.reading.idx import read_idx_images
from cfexplain.errors import DataError

IMAGES = np.random.default_rng(0).integers(256, size=(5, 28, 28)).astype(np.uint8)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_images_come_back(tmp_path, write_idx, name):
    assert (read_idx_images(write_idx(tmp_path / name, IMAGES)) == IMAGES).all()


def test_reads_what_torchvision_reads(tmp_path, write_idx):
    from torchvision.datasets.mnist import read_image_file

    path = write_idx(tmp_path / "images", IMAGES)
    assert (read_image_file(str(path)).numpy() == read_idx_images(path)).all()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("images", lambda raw: raw[:-1], "3919 bytes of data, 3920 by its header"),
        ("images", lambda raw: raw + b"x", "damaged"),
        ("images", lambda raw: raw[:7], "wrong header"),
        ("images", lambda raw: b"", "wrong header"),
        ("images", lambda raw: b"<html>404 not found</html>" * 99, "no idx3 images file"),
        ("images", lambda raw: b"\0\0\x08\x01" + raw[4:], "no idx3 images file"),
        ("images", lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "damaged"),
        ("images", lambda raw: raw[:4] + bytes(12), "holds 0 images"),
        ("images.gz", lambda raw: gzip.compress(raw)[:-9], "damaged"),
        ("images.gz", lambda raw: gzip.compress(raw)[:100] + b"x" * 50 + gzip.compress(raw)[150:], "damaged"),
        ("images.gz", lambda raw: raw, "damaged"),
        ("images.gz", lambda raw: gzip.compress(raw[:-1]), "damaged"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, write_idx, name, damage, words):
    raw = write_idx(tmp_path / "whole", IMAGES).read_bytes()
    (tmp_path / name).write_bytes(damage(raw))
    with pytest.raises(DataError, match=words) as caught:
        read_idx_images(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_other_sizes_are_refused(tmp_path, write_idx):
    with pytest.raises(DataError, match="32x32"):
        read_idx_images(write_idx(tmp_path / "images", np.zeros((2, 32, 32))))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.gz"):
        read_idx_images(tmp_path / "nowhere.gz")
