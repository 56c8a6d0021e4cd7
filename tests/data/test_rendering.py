"""Rendered characters: legible, varied, and kept in a cache that heals."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cfexplain.data import rendering
from cfexplain.data.reading.cache import write_atomically
from cfexplain.data.rendering import cached_masks, render
from cfexplain.errors import DataError


def test_digits_can_be_told_apart_by_a_simple_rule():
    # The nearest of 1000 pictures, pixel by pixel, is of the same digit for 87 %; chance is 10 %.
    digits = "0123456789" * 100
    train, test = (render(name, digits, 0).reshape(1000, -1) / 255.0 for name in ("a", "b"))
    distances = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
    labels = np.array([int(digit) for digit in digits])
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.8


def test_pictures_are_bright_inside_the_frame_and_all_different():
    images = render("x", "0123456789" * 50, 0)
    assert images.reshape(len(images), -1).max(axis=1).min() > 200
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert (border > 128).any(axis=1).mean() < 0.02  # a stroke that runs out of the frame is rare
    assert len({image.tobytes() for image in images}) == len(images)


def test_names_and_seeds_give_other_pictures():
    first = render("train", "7777", 0)
    assert (render("train", "7777", 0) == first).all()
    assert (render("test", "7777", 0) != first).any() and (render("train", "7777", 1) != first).any()


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty"])
def test_a_damaged_cache_is_rendered_again(tmp_path, damage, caplog):
    images = cached_masks(str(tmp_path), "x", "123" * 30, 0)
    (path,) = (tmp_path / "glyphs").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "flip": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "garbage": b"\x80\x04not an archive",
        "empty": b"",
    }[damage]
    path.write_bytes(damaged)
    assert (cached_masks(str(tmp_path), "x", "123" * 30, 0) == images).all()
    assert "damaged" in caplog.text and path.name in caplog.text
    assert path.read_bytes() == whole and len(list(path.parent.iterdir())) == 1


def test_a_sound_cache_is_read_and_other_parameters_have_their_own(tmp_path, monkeypatch):
    cached_masks(str(tmp_path), "x", "12", 0)
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "render", lambda *_: pytest.fail("rendered although cached"))
        cached_masks(str(tmp_path), "x", "12", 0)
    monkeypatch.setattr(rendering, "RENDERING", rendering.RENDERING._replace(version=999))
    cached_masks(str(tmp_path), "x", "12", 0)
    assert len(list((tmp_path / "glyphs").iterdir())) == 2


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, lambda file: file.write(b"new"))
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_a_cache_folder_that_cannot_be_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cache_dir"):
        cached_masks(str(tmp_path / "file"), "x", "1", 0)


@pytest.mark.slow
def test_twelve_thousand_pictures_take_seconds():
    start = time.process_time()
    render("x", "0123456789" * 1200, 0)
    assert time.process_time() - start < 8
