"""Folders of images: roles from names, views of one cache."""

from __future__ import annotations

import logging
import shutil
import zipfile
from dataclasses import fields as fields_of
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cfexplain.data.exposures.folder import FolderImages
from cfexplain.data.exposures.none import Nothing
from cfexplain.data.datasets.folder import Folder
from cfexplain.data.splits import role_lines, role_table
from cfexplain.errors import CfexplainWarning, DataError
from cfexplain.types import Augmentation
from tests.conftest import ROOT
from tests.data.folders import SIDE, draw

NOTHING = Nothing(limit=None, seed=0)
CONF = ROOT / "conf"


def check_pixels(root: Path, images) -> None:
    """Each row is the picture that its id names."""
    for name, image in zip(images.ids, images.images, strict=True):
        pixels = np.array(Image.open(root / name).convert("RGB")).transpose(2, 0, 1)
        assert (image.numpy() == pixels).all(), name


def test_train_and_test(parts, folder):
    splits = folder(parts).load(NOTHING)
    assert splits.class_names == ("good", "dent", "scratch") and splits.image_shape == (3, SIDE, SIDE)
    assert [len(images) for images in (splits.train, splits.held_out, splits.test)] == [18, 2, 10]
    everyone = sorted(splits.train.ids + splits.held_out.ids)
    assert everyone == [f"train/good/{index:03d}.png" for index in range(20)]
    for images in (splits.train, splits.held_out, splits.test):
        check_pixels(parts, images)
        for name, label, index in zip(images.ids, images.labels.tolist(), images.classes.tolist(), strict=True):
            assert name.split("/")[1] == splits.class_names[index] and label == (index > 0)
    assert splits.reference.ids == splits.train.ids and splits.exposure is None and splits.augmentation is None


def test_masks_lie_on_their_defects(parts, folder):
    test = folder(parts).load(NOTHING).test
    for name, mask in zip(test.ids, test.masks, strict=True):
        _, kind, file = name.split("/")
        wanted = np.zeros((SIDE, SIDE), dtype=bool)
        if kind != "good":
            wanted[int(file[:3]) : int(file[:3]) + 4, 8:12] = True
        assert (mask.numpy() == wanted).all(), name


def test_every_set_is_a_view_of_one_mapped_file(parts, folder):
    splits = folder(parts).load(NOTHING)
    sets = (splits.train, splits.held_out, splits.test_normals, splits.test_anomalies)
    assert all(images.is_mapped for images in sets)
    start = splits.train.images.data_ptr()
    for images in sets:  # one after the other, with nothing between
        assert images.images.data_ptr() == start
        start += images.images.numel()
    assert not folder(parts, memory_limit_mb=1).load(NOTHING).train.is_mapped


@pytest.mark.parametrize("is_nested", [False, True])
def test_normal_and_anomalous(tmp_path, folder, is_nested):
    draw(tmp_path / "x/normal", 40)
    for name, count in (("", 4), ("/dent", 2), ("/Scratch", 3)) if is_nested else (("", 4),):
        draw(tmp_path / f"x/anomalous{name}", count)
    splits = folder(tmp_path / "x").load(NOTHING)
    assert [len(images) for images in (splits.train, splits.held_out, splits.test_normals)] == [29, 3, 8]
    check_pixels(tmp_path / "x", splits.test)
    counts = torch.bincount(splits.test_anomalies.classes).tolist()
    names = ("normal", "Scratch", "anomalous", "dent") if is_nested else ("normal", "anomalous")
    assert splits.class_names == names and counts == ([0, 3, 4, 2] if is_nested else [0, 4])
    assert splits.test.masks is None
    everyone = {*splits.train.ids, *splits.held_out.ids, *splits.test_normals.ids}
    assert everyone == {f"normal/{index:03d}.png" for index in range(40)}


@pytest.mark.parametrize("names", [["."], ["line 1/monday", "line 2"]])
def test_normal_images_alone(tmp_path, folder, names):
    for name in names:
        draw(tmp_path / "x" / name, 20)
    splits = folder(tmp_path / "x").load(NOTHING)
    total = 20 * len(names)
    sizes = len(splits.train), len(splits.held_out), len(splits.test)
    assert sum(sizes) == total and len(splits.test) == 0.2 * total
    assert not splits.test.labels.any() and not splits.has_test_anomalies and splits.class_names == ("normal",)
    other = folder(tmp_path / "x", seed=1).load(NOTHING)
    assert folder(tmp_path / "x").load(NOTHING).test.ids == splits.test.ids != other.test.ids


def test_a_zip_is_as_good_as_its_folder(tmp_path, parts, folder):
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for path in sorted(parts.rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))  # in a folder of its own
    packed, plain = folder(tmp_path / "parts.zip").load(NOTHING), folder(parts).load(NOTHING)
    for name in ("train", "held_out", "test"):
        first, second = getattr(packed, name), getattr(plain, name)
        assert first.ids == second.ids and (first.images == second.images).all()
    assert (packed.test.masks == plain.test.masks).all()


def test_channels(tmp_path, parts, folder):
    draw(tmp_path / "grey/normal", 30, is_grey=True)
    draw(tmp_path / "grey/anomalous", 2)
    assert folder(tmp_path / "grey").load(NOTHING).image_shape == (1, SIDE, SIDE)
    assert folder(tmp_path / "grey", channels=3).load(NOTHING).image_shape == (3, SIDE, SIDE)
    assert folder(parts, channels=1).load(NOTHING).image_shape == (1, SIDE, SIDE)
    grey = np.asarray(Image.open(tmp_path / "grey/normal/000.png"))
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "grey/normal/000.png")  # as many cameras do
    assert folder(tmp_path / "grey").load(NOTHING).image_shape == (1, SIDE, SIDE)


def test_the_table_of_roles(parts, folder, caplog):
    caplog.set_level(logging.INFO)
    draw(parts.parent / "others", 7)
    exposure = FolderImages(limit=5, seed=0, root=str(parts.parent / "others"), max_unreadable_fraction=0.0)
    splits = folder(parts).load(exposure)
    assert role_table(splits) == (
        ("good", 18, "training, normal"),
        ("good", 2, "held out, normal: calibration and threshold"),
        ("exposure", 5, "training, anomalous"),
        ("good", 5, "test, normal"),
        ("dent", 2, "test, anomalous"),
        ("scratch", 3, "test, anomalous"),
    )
    assert "decoding 5 images" in caplog.text  # of the seven exposure images
    assert "\n".join(role_lines(splits)) in caplog.text and str(parts) in caplog.text


def test_a_folder_as_exposure(tmp_path, parts, folder, caplog):
    draw(tmp_path / "others", 12)
    shutil.copy(parts / "train/good/004.png", tmp_path / "others/copy.png")
    exposure = FolderImages(limit=None, seed=0, root=str(tmp_path / "others"), max_unreadable_fraction=0.0)
    found = folder(parts).load(exposure).exposure
    assert sorted(found.ids) == [f"exposure/{index:03d}.png" for index in range(12)]
    assert (found.labels == 1).all() and (found.classes == -1).all() and "removed 1 of 13" in caplog.text
    for name, image in zip(found.ids, found.images, strict=True):
        pixels = np.array(Image.open(tmp_path / "others" / name.removeprefix("exposure/"))).transpose(2, 0, 1)
        assert (image.numpy() == pixels).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        folder(parts).load(FolderImages(limit=1, seed=0, root=str(tmp_path / "empty"), max_unreadable_fraction=0.0))


def test_a_few_damaged_files_shift_nothing(parts, folder):
    for name in ("train/good/003.png", "test/good/001.png", "test/scratch/000.png"):
        (parts / name).write_bytes(b"damaged")
    splits = folder(parts, max_unreadable_fraction=0.1).load(NOTHING)
    assert [len(images) for images in (splits.train, splits.held_out, splits.test)] in ([17, 2, 8], [18, 1, 8])
    for images in (splits.train, splits.held_out, splits.test):
        check_pixels(parts, images)
    starts = [int(mask.any(dim=1).nonzero()[0]) for mask in splits.test.masks[4:]]
    assert starts == [int(name[-7:-4]) for name in splits.test.ids[4:]]  # a mask begins in the row of its number


def test_augmentation(parts, folder):
    assert folder(parts, flip=True).augmentation == Augmentation(flip=True, crop_padding=0)
    assert folder(parts, crop_padding=2).load(NOTHING).augmentation == Augmentation(flip=False, crop_padding=2)


@pytest.mark.parametrize(("file", "cls"), [("dataset/folder", Folder), ("exposure/folder", FolderImages)])
def test_the_yaml_holds_the_fields(file, cls):
    values = yaml.safe_load((CONF / f"{file}.yaml").read_text())
    values.pop("defaults", None)
    assert values.pop("_target_") == f"{cls.__module__}.{cls.__name__}"
    assert set(values) == {field.name for field in fields_of(cls)}


def test_the_leather_sample(packs, folder):
    splits = folder(packs / "mvtec/mvtec-leather-sample-256.zip", image_size=64).load(NOTHING)
    assert splits.class_names == ("good", "color", "cut", "fold", "glue", "poke")
    assert len(splits.train) + len(splits.held_out) == 4 and splits.image_shape == (3, 64, 64)
    assert torch.bincount(splits.test.classes).tolist() == [4, 1, 2, 2, 3, 3]
    assert splits.test.masks[4:].flatten(1).any(dim=1).all() and not splits.test.masks[:4].any()


def test_images_of_one_part_are_not_split(tmp_path, folder):
    draw(tmp_path / "normal", 24)
    part_of = {f"normal/{index:03d}.png": f"part {index // 4}" for index in range(24)}  # six parts, four times each
    rows = "".join(f"{name},{part}\n" for name, part in part_of.items())
    (tmp_path / "parts.csv").write_text(f"file,part\n{rows}")
    splits = folder(tmp_path, groups="parts.csv", group_column="part", held_out_fraction=0.2).load(NOTHING)
    sets = [{part_of[name] for name in images.ids} for images in (splits.train, splits.held_out, splits.test)]
    assert sum(map(len, sets)) == 6 and set.union(*sets) == set(part_of.values())
    assert len(splits.train) + len(splits.held_out) + len(splits.test) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [("file,where\n", "has no column 'part' (dataset.group_column), only file, where"), ("", "only nothing"),
     ("file,part\nnormal/000.png,a\n", "gives no part for 5 of 6 normal images, such as normal/001.png"),
     (None, "cannot be read"), (b"\xff\xfe\xff", "cannot be read")],
)
def test_a_table_of_parts_that_is_none(tmp_path, folder, text, message):
    draw(tmp_path / "normal", 6)
    if text is not None:
        (tmp_path / "parts.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="parts.csv") as error:
        folder(tmp_path, groups="parts.csv", group_column="part").load(NOTHING)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".dib", ".pnm"])
def test_every_ending_of_what_can_be_read_is_taken(tmp_path, folder, suffix):
    draw(tmp_path / "x", 20)
    for number in range(10):
        kind = {".dib": "BMP", ".pnm": "PPM"}.get(suffix, "JPEG")
        picture = Image.open(tmp_path / f"x/{number:03d}.png")
        picture.save(tmp_path / f"x/{number:03d}{suffix}", kind)
        (tmp_path / f"x/{number:03d}.png").unlink()
    splits = folder(tmp_path / "x").load(NOTHING)
    assert sum(len(part) for part in (splits.train, splits.held_out, splits.test)) == 20


def test_what_no_part_takes_is_counted_with_its_reason(parts, folder):
    draw(parts / "val/good", 4)
    draw(parts / "train/unsorted", 2)
    draw(parts / "odd", 1)
    for number in range(3):
        (parts / f"train/good/{number}.heic").touch()
    (parts / "README").touch()
    (parts / ".DS_Store").touch()
    with pytest.warns(CfexplainWarning) as caught:
        splits = folder(parts).load(NOTHING)
    (said,) = [str(each.message) for each in caught]
    assert said == (
        f"not used of {parts}: 1 in odd, which stands for no part, 2 in train/unsorted, which stands for no part, "
        "4 in val, which stands for no part, 3 with the ending .heic, 1 without an ending"
    )
    assert len(splits.train) + len(splits.held_out) == 20


def test_images_of_twelve_bits_are_left_out_with_a_reason_or_read(tmp_path, folder):
    rng = np.random.default_rng(0)
    (tmp_path / "x").mkdir()
    for number in range(20):
        values = rng.integers(4096, size=(SIDE, SIDE)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"x/{number}.png")
    with pytest.raises(DataError, match="20 of 20 images cannot be used.*dataset.bits=12"):
        folder(tmp_path / "x", channels=1).load(NOTHING)
    splits = folder(tmp_path / "x", bits=12).load(NOTHING)
    assert splits.image_shape[0] == 1 and splits.train.images.max() == 255 and splits.train.images.min() == 0
