"""What a run has images for, found again by their content."""

from __future__ import annotations

import shutil

import pytest

from cfexplain.data.exposures.none import Nothing
from cfexplain.data.recorded_split import FoundImage, read_split, RecordedSplit
from cfexplain.errors import CfexplainWarning, DataError
from cfexplain.files import write_csv
from cfexplain.reporting.samples import split_rows
from tests.data.folders import draw

NOTHING = Nothing(limit=None, seed=0)


def recorded(*rows: tuple[str, str, str]) -> RecordedSplit:
    names = ("id", "role", "sha256")
    return RecordedSplit(file="split.csv", rows=tuple(dict(zip(names, row)) | {"class": "normal"} for row in rows))


def images(**contents: str) -> list[FoundImage]:
    return [FoundImage(id=id, class_name="normal", sha256=content) for id, content in contents.items()]


def test_images_are_found_by_their_content():
    split = recorded(("a", "train", "1"), ("b", "train", "2"), ("c", "held_out", "3"), ("d", "test", "4"),
                     ("e", "unreadable", "5"))
    found = split.find_again(images(a="1", b="2", c="3", d="4", e="5"))
    assert found.indices == {"train": [0, 1], "held_out": [2], "test": [3]} and not found.has_changed
    renamed = split.find_again(images(z="1", b="2", c="3", d="4", e="5"))
    assert renamed.indices["train"] == [0, 1] and not renamed.has_changed
    swapped = split.find_again(images(a="3", b="2", c="1", d="4", e="5"))  # what was learned from, as a held-out image
    assert swapped.indices == {"train": [2, 1], "held_out": [0], "test": [3]} and not swapped.has_changed
    copied = split.find_again(images(a="1", b="2", c="1", d="2", e="5", f="6"))
    assert copied.indices == {"train": [0, 1], "held_out": [], "test": []}
    assert (copied.num_new, copied.num_gone, copied.num_changed) == (1, 0, 2)
    relabelled = [FoundImage(id="x", class_name="dent", sha256="1"), *images(b="2", c="3", d="4")]
    found = split.find_again(relabelled)
    assert found.indices["train"] == [1] and (found.num_new, found.num_gone) == (1, 1)


def test_a_folder_keeps_its_split(parts, folder, tmp_path):
    before = folder(parts, max_unreadable_fraction=0.5).load(NOTHING)
    (parts / "train/good/bad.png").write_text("no image")
    before = folder(parts, max_unreadable_fraction=0.5).load(NOTHING)
    write_csv(tmp_path / "split.csv", split_rows(before))
    split = read_split(tmp_path / "split.csv")
    assert [row["id"] for row in split.rows if row["role"] == "unreadable"] == ["train/good/bad.png"]
    draw(parts / "train/new", 5)
    for number in range(5):
        (parts / f"train/new/{number:03d}.png").rename(parts / f"train/good/a-new-{number}.png")
    shutil.copy(parts / "train/good/000.png", parts / "test/good/copy.png")
    (parts / "test/dent/000.png").unlink()
    (parts / "ground_truth/dent/000_mask.png").unlink()
    with pytest.warns(CfexplainWarning, match="6 images new, 1 gone, 0 changed"):
        after = folder(parts, max_unreadable_fraction=0.5).load_again(NOTHING, split)
    assert after.train.ids == before.train.ids and after.held_out.ids == before.held_out.ids
    assert after.test.ids == tuple(id for id in before.test.ids if id != "test/dent/000.png")
    kept = [row for row, id in enumerate(before.test.ids) if id in after.test.ids]
    assert (after.test.masks == before.test.masks[kept]).all() and (after.test.images == before.test.images[kept]).all()
    assert (after.test.classes == before.test.classes[kept]).all()


def test_new_images_need_no_group(tmp_path, folder):
    draw(tmp_path / "x", 20)
    lines = ["file,group", *(f"{number:03d}.png,{number // 2}" for number in range(20))]
    (tmp_path / "x/parts.csv").write_text("\n".join(lines) + "\n")
    dataset = folder(tmp_path / "x", groups="parts.csv")
    before = dataset.load(NOTHING)
    write_csv(tmp_path / "split.csv", split_rows(before))
    draw(tmp_path / "new", 1)
    shutil.copy(tmp_path / "new/000.png", tmp_path / "x/new.png")
    with pytest.warns(CfexplainWarning, match="1 images new"):
        after = dataset.load_again(NOTHING, read_split(tmp_path / "split.csv"))
    assert after.train.ids == before.train.ids and after.test.ids == before.test.ids


def test_other_data_are_refused_and_a_damaged_table_named(parts, folder, tmp_path):
    write_csv(tmp_path / "split.csv", split_rows(folder(parts).load(NOTHING)))
    draw(tmp_path / "other", 30)
    with pytest.raises(DataError, match="holds no training image of"), pytest.warns(CfexplainWarning):
        folder(tmp_path / "other").load_again(NOTHING, read_split(tmp_path / "split.csv"))
    (tmp_path / "split.csv").write_text("id,role\na,train\n")
    with pytest.raises(DataError, match="split.csv is damaged"):
        read_split(tmp_path / "split.csv")
    assert read_split(tmp_path / "none.csv") is None
