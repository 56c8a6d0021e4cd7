"""One clear line for each thing that can be wrong with a folder of images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from cfexplain.data.exposures.none import Nothing
from cfexplain.errors import DataError
from tests.conftest import ROOT
from tests.data.folders import SIDE, draw

NOTHING = Nothing(limit=None, seed=0)


def remove(name):
    return lambda root: shutil.rmtree(root / name)


def empty(name):
    def act(root):
        shutil.rmtree(root / name)
        (root / name).mkdir()

    return act


def write(name, content=b"damaged"):
    def act(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return act


def link(root):
    (root / "train/good/link.png").symlink_to(root / "gone.png")


def remove_mask(root):
    (root / "ground_truth/dent/001_mask.png").unlink()


def shrink_mask(root):
    Image.new("L", (SIDE, SIDE - 1)).save(root / "ground_truth/dent/001_mask.png")


def keep_one(root):
    for path in sorted((root / "train/good").iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("."), "parts is not there, or may not be read. Set dataset.root"),
        (empty("."), "no images .* in .*parts"),
        (remove("train"), "no folder .*train/good"),
        (empty("train/good"), "no images .*train/good"),
        (empty("test/good"), "no images .*test/good"),
        (empty("test/dent"), "no images .*test/dent"),
        (empty("test"), "no class folders in .*test"),
        (write("test/stray.png"), r"stray\.png is in no class folder"),
        (keep_one, "too few normal images to hold some out: 1 in .*parts"),
        (remove_mask, r"test/dent/001\.png has no mask: put it at "),
        (shrink_mask, r"001_mask\.png is 16x15 and .*dent/001\.png is 16x16"),
        (write("ground_truth/dent/001_mask.png"), r"001_mask\.png is no image"),
        (link, r"1 of 31 images cannot be used, first: .*link\.png is a broken link"),
        (write("test/good/001.png"), r"1 of 30 images cannot be used, first: .*good/001\.png is no image"),
    ],
)
def test_what_is_wrong_is_one_line(parts, folder, damage, words):
    damage(parts)
    with pytest.raises(DataError, match=words) as caught:
        folder(parts).load(NOTHING)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["normal"], None),
        (["anomalous"], "no folder .*normal: put the normal images there"),
        (["normal", "scratch"], "scratch lies beside normal"),
        (["normal", "anomalous/normal"], "cannot be called normal"),
        (["good", "bad"], "'bad', so not all of it is normal"),
        (["bad"], "'bad', so not all"),
        (["Normal", "Anomalous"], "'Anomalous', so not all"),
        (["good", "scratch", "dent"], "'good', so not all"),
        (["good"], None),
        (["monday", "tuesday"], None),
    ],
)
def test_anomalies_are_never_taken_for_normal_by_a_name(tmp_path, folder, names, words):
    for name in names:
        draw(tmp_path / "x" / name, 20)
    if words is None:
        assert not folder(tmp_path / "x").load(NOTHING).test.labels.any()
        return
    with pytest.raises(DataError, match=words):
        folder(tmp_path / "x").load(NOTHING)


def test_an_empty_folder_of_anomalies(tmp_path, folder):
    draw(tmp_path / "x/normal", 20)
    (tmp_path / "x/anomalous").mkdir()
    with pytest.raises(DataError, match="no images in .*anomalous"):
        folder(tmp_path / "x").load(NOTHING)
    (tmp_path / "x/anomalous/dent").mkdir()
    with pytest.raises(DataError, match="no images .*anomalous/dent"):
        folder(tmp_path / "x").load(NOTHING)


def test_no_readable_image_left_for_a_part(parts, folder):
    for path in (parts / "test/good").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="no readable image is left as normal test image"):
        folder(parts, max_unreadable_fraction=0.5).load(NOTHING)


def test_a_zip_that_leads_outside(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../evil.png", b"")
    with pytest.raises(DataError, match=r"\.\./evil\.png"):
        folder(tmp_path / "x.zip").load(NOTHING)


def test_a_folder_nobody_may_read(parts, folder):
    """In a process of its own that is nobody, since root may read everything."""
    (parts / "test/dent").chmod(0)
    (parts.parent).chmod(0o777)
    code = (
        "import os, sys\nfrom cfexplain.data.reading.folder_layout import find_layout\n"
        "from cfexplain.errors import DataError\n"
        f"from pathlib import Path\nos.chdir({str(parts.parent)!r})\n"
        "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "try: find_layout(Path('parts'))\nexcept DataError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "cannot read the folder parts/test/dent (Permission denied).", done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 7}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"test_fraction": 0.0}, "test_fraction"),
        ({"memory_limit_mb": -1}, "memory_limit_mb"),
        ({"max_unreadable_fraction": 1.0}, "max_unreadable_fraction"),
        ({"crop_padding": SIDE}, "crop_padding"),
        ({"held_out_fraction": 0.0}, "held_out_fraction"),
        ({"root": " "}, "root is empty"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, folder, changes, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        folder(tmp_path, **changes)


def test_slugs_are_fit_for_folder_names(tmp_path, folder):
    assert folder(tmp_path / "My Parts=2.zip").slug == "folder-my_parts_2"
    assert folder("/").slug == "folder-images"
