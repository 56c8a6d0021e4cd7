"""Traffic signs: torchvision's layout, loose or zipped; tracks that stay together; damage and absence in one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfexplain.data.exposures.none import Nothing
from cfexplain.data.datasets.gtsrb import Gtsrb
from cfexplain.errors import DataError
from cfexplain.types import Augmentation

NOTHING = Nothing(limit=None, seed=0)
NUM_TRACKS, NUM_SHOTS = 4, 5
SPEED_LIMITS = [0, 1, 2, 3, 4, 5, 7, 8]


def colour(label: int, is_train: bool) -> tuple[int, int, int]:
    """One colour all over, which survives any resizing: red tells the class, green the part."""
    return (5 * label, 200 if is_train else 100, 50)


@pytest.fixture(scope="module")
def drawn_signs(tmp_path_factory) -> Path:
    """43 classes of 4 tracks with 5 shots, and 2 test images each, of sides from 15 to 44 pixels."""
    root = tmp_path_factory.mktemp("signs")
    base = root / "gtsrb"
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    (base / "GTSRB/Final_Test/Images").mkdir(parents=True)
    for label in range(43):
        folder = base / f"GTSRB/Training/{label:05d}"
        folder.mkdir(parents=True)
        for track in range(NUM_TRACKS):
            for shot in range(NUM_SHOTS):
                size = (15 + (label + 7 * shot) % 30, 15 + 5 * track)
                Image.new("RGB", size, colour(label, True)).save(folder / f"{track:05d}_{shot:05d}.ppm")
    for number, label in enumerate(np.random.default_rng(0).permutation(np.repeat(np.arange(43), 2)).tolist()):
        Image.new("RGB", (20, 31), colour(label, False)).save(base / f"GTSRB/Final_Test/Images/{number:05d}.ppm")
        rows.append(f"{number:05d}.ppm;20;31;0;0;19;30;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def root(drawn_signs, tmp_path) -> Path:
    """A copy that a test may damage; the images are hard links, which a test must not write into."""
    return Path(shutil.copytree(drawn_signs, tmp_path / "root", copy_function=os.link))


@pytest.fixture
def fields(fields):
    return fields | {"normal": ["speed_limits"], "flip": False, "crop_padding": 2}


def test_every_image_has_the_class_that_it_shows(root, fields):
    for is_train, count in ((True, 43 * 20), (False, 86)):
        pictures = Gtsrb(**fields).read(is_train)
        assert len(pictures) == len(set(pictures.ids)) == count and pictures.images.shape[1:] == (3, 32, 32)
        expected = np.array([colour(label, is_train) for label in pictures.classes.tolist()])
        assert (pictures.images == expected[:, :, None, None]).all()
    train = Gtsrb(**fields).read(True)
    assert train.ids[-1] == "train/00042/00003_00004"
    assert np.unique(train.groups, return_counts=True)[1].tolist() == [NUM_SHOTS] * NUM_TRACKS * 43


def test_a_zip_and_a_folder_of_the_zip_hold_the_same(root, fields, tmp_path):
    expected = Gtsrb(**fields).read(False)
    pack = Path(shutil.make_archive(str(tmp_path / "pack/gtsrb-32"), "zip", root))
    for given in (pack, pack.parent):
        found = Gtsrb(**fields | {"root": str(given), "download": True}).read(False)  # and nothing is fetched
        assert (found.images == expected.images).all() and list(found.ids) == list(expected.ids)


def test_nothing_is_fetched_into_an_unpacked_zip(root, fields, tmp_path):
    shutil.rmtree(root / "gtsrb/GTSRB/Training")
    pack = shutil.make_archive(str(tmp_path / "half"), "zip", root)
    with pytest.raises(DataError, match="^Missing in .*: gtsrb/GTSRB/Training"):
        Gtsrb(**fields | {"root": pack, "download": True}).read(True)


def test_tracks_stay_on_one_side(root, fields):
    splits = Gtsrb(**fields | {"held_out_fraction": 0.3}).load(NOTHING)
    tracks = [{name.rsplit("_", 1)[0] for name in part.ids} for part in (splits.train, splits.held_out)]
    assert not tracks[0] & tracks[1]
    # Of 20 images a class 6 are wanted, so 2 whole tracks of 5 are taken; the same track number is another track
    # in another class.
    assert torch.bincount(splits.held_out.classes)[SPEED_LIMITS].tolist() == [10] * 8
    assert len(tracks[1]) == 2 * 8 and len({name[-5:] for name in tracks[1]}) > 2


def test_the_normal_group_and_nothing_else_is_trained_on(root, fields):
    splits = Gtsrb(**fields).load(NOTHING)
    assert sorted(set(splits.train.classes.tolist())) == SPEED_LIMITS
    assert sorted(set(splits.test_normals.classes.tolist())) == SPEED_LIMITS and len(splits.test) == 86
    assert splits.augmentation == Augmentation(flip=False, crop_padding=2)


def test_slugs_and_named_signs(fields):
    assert Gtsrb(**fields).slug == "gtsrb-speed_limits"
    named = Gtsrb(**fields | {"normal": ["20 km/h", "stop"]})
    assert named.normal_classes == (0, 14) and named.slug == "gtsrb-20_km_h_stop"
    with pytest.raises(ValueError, match=r"normal: no class 'danger sign'.*names speed_limits, .* mean danger\?"):
        Gtsrb(**fields | {"normal": ["danger sign"]})
    with pytest.raises(ValueError, match="crop_padding must lie in 0 to 31 pixels, got 32"):
        Gtsrb(**fields | {"crop_padding": 32})


def drop(name: str):
    def damage(base: Path) -> None:
        shutil.rmtree(base / name) if (base / name).is_dir() else (base / name).unlink()

    return damage


def empty(name: str):
    def damage(base: Path) -> None:
        shutil.rmtree(base / name)
        (base / name).mkdir()

    return damage


def change_table(old: str, new: str):
    def damage(base: Path) -> None:
        table = base / "GT-final_test.csv"
        text = table.read_text()
        assert old in text
        table.unlink()
        table.write_text(text.replace(old, new, 1))

    return damage


def rename(old: str, new: str):
    return lambda base: (base / old).rename(base / new)


def overwrite(name: str, content: bytes):
    def damage(base: Path) -> None:
        (base / name).unlink()
        (base / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("is_train", "damage", "words"),
    [
        (True, drop("GTSRB/Training"), "Missing in .*: gtsrb/GTSRB/Training.*dataset.download=true"),
        (False, drop("GTSRB/Final_Test/Images"), "Missing in .*: gtsrb/GTSRB/Final_Test/Images"),
        (False, drop("GT-final_test.csv"), "Missing in .*: gtsrb/GT-final_test.csv"),
        (True, drop("GTSRB/Training/00007"), "Training lacks class folders 00007;"),
        (True, rename("GTSRB/Training/00007", "GTSRB/Training/0007b"), "lacks class folders 00007;"),
        (True, lambda base: (base / "GTSRB/Training/00043").mkdir(), "must not hold class folders 00043;"),
        (True, empty("GTSRB/Training/00003"), "reading .*Training failed .*no valid file for the classes 00003"),
        (True, rename("GTSRB/Training/00000/00000_00000.ppm", "GTSRB/Training/00000/x.ppm"), r"x\.ppm is not named"),
        (True, overwrite("GTSRB/Training/00001/00002_00003.ppm", b"garbage"), r"00001/00002_00003\.ppm"),
        (False, drop("GTSRB/Final_Test/Images/00009.ppm"), r"GT-final_test.csv names 00009\.ppm, which is not in"),
        (False, change_table(";29\n", ";43\n"), r"the class 43; classes are 0 to 42"),
        (False, change_table(";29\n", ";-1\n"), r"the class -1; classes are 0 to 42"),
        (False, change_table(";29\n", ";stop\n"), r"GT-final_test.csv is damaged \(.*'stop'"),
        (False, change_table(";0;0;19;30;29\n", "\n"), r"GT-final_test.csv is damaged"),
        (False, change_table("ClassId", "Class"), "GT-final_test.csv has no column ClassId"),
        (False, change_table("00005.ppm", "00004.ppm"), "GT-final_test.csv names an image twice"),
        (False, overwrite("GT-final_test.csv", b""), "GT-final_test.csv names no images"),
        (False, overwrite("GT-final_test.csv", b"Filename;ClassId\n\xff\xfe;0"), "GT-final_test.csv is damaged"),
    ],
)
def test_damage_is_one_line_that_names_the_file(root, fields, is_train, damage, words):
    damage(root / "gtsrb")
    with pytest.raises(DataError, match=words) as caught:
        Gtsrb(**fields).read(is_train)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_a_failed_download_says_what_to_do(fields, monkeypatch, tmp_path):
    from torchvision.datasets import gtsrb

    def fail(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(gtsrb, "download_and_extract_archive", fail)
    with pytest.raises(DataError, match=r"download failed \(no route to host\)\. Set dataset\.root"):
        Gtsrb(**fields | {"root": str(tmp_path / "new"), "download": True}).read(True)


def test_the_real_pack(packs, fields):
    splits = Gtsrb(**fields | {"root": str(packs / "gtsrb/gtsrb-32.zip"), "normal": ["unique"]}).load(NOTHING)
    complete = {0: (150, 60), 12: (1410, 690), 14: (540, 270), 17: (750, 360), 18: (810, 390), 25: (1020, 480)}
    complete |= {27: (180, 60), 33: (480, 210), 34: (300, 120), 40: (240, 90)}
    counts = [complete.get(label, (20, 10)) for label in range(43)]
    assert torch.bincount(splits.reference.classes).tolist() == [train for train, _ in counts]
    assert torch.bincount(splits.test.classes).tolist() == [test for _, test in counts]
    assert len(splits.train) + len(splits.held_out) == 1410 + 20 + 540 + 750
    tracks = [{name.rsplit("_", 1)[0] for name in part.ids} for part in (splits.train, splits.held_out)]
    assert not tracks[0] & tracks[1] and 0.1 <= len(splits.held_out) / 2720 < 0.15
    # No entry (17) is red, turn right (33) is blue: the numbering of the test images agrees with the signs.
    means = {c: splits.test.images[splits.test.classes == c].float().mean(dim=(0, 2, 3)) for c in (17, 33)}
    assert means[17][0] > means[17][2] and means[33][2] > means[33][0]


def test_crops_of_three_classes_are_not_numbered_0_1_2(packs, fields):
    pack = str(packs / "gtsrb/gtsrb-original-train.zip")
    with pytest.raises(DataError, match=r"Training lacks class folders 00000, 00001, .* \.\.\.; 00000 to 00042"):
        Gtsrb(**fields | {"root": pack}).read(True)
