"""MVTec AD: the official counts, one channel for grey categories, and advice where the files are missing."""

from __future__ import annotations

from dataclasses import fields as fields_of
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cfexplain.data.reading.archives import unpacked
from cfexplain.data.exposures.none import Nothing
from cfexplain.data.datasets.mvtec import Mvtec
from cfexplain.errors import DataError
from tests.conftest import ROOT

NOTHING = Nothing(limit=None, seed=0)
CONF = ROOT / "conf/dataset"


@pytest.fixture
def mvtec(tmp_path):
    def make(root: Path, category: str = "screw", **changes) -> Mvtec:
        values = {
            "cache_dir": str(tmp_path / "cache"), "held_out_fraction": 0.1, "seed": 0, "root": str(root),
            "category": category, "image_size": 64, "channels": None, "bits": None, "memory_limit_mb": 0,
            "max_unreadable_fraction": 0.0, "flip": False, "crop_padding": 0, "rotation": 0.0,
            "exposure": 0.0,
        }
        return Mvtec(**values | changes)

    return make


def test_screws(packs, mvtec):
    splits = mvtec(packs / "mvtec/mvtec-screw-256.zip").load(NOTHING)
    assert splits.class_names == (
        "good", "manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top"
    )
    assert splits.image_shape == (1, 64, 64) and splits.train.is_mapped
    assert len(splits.train) == 288 and len(splits.held_out) == 32
    assert torch.bincount(splits.test.classes).tolist() == [41, 24, 24, 25, 23, 23]
    has_mask = splits.test.masks.flatten(1).any(dim=1)
    assert (has_mask == (splits.test.labels == 1)).all()


def test_a_mask_covers_its_defect(packs, mvtec, tmp_path):
    """Counted in the files: the share of marked pixels survives the way to 64 px."""
    root = packs / "mvtec/mvtec-screw-256.zip"
    splits = mvtec(root).load(NOTHING)
    folder = unpacked(root, str(tmp_path / "cache")) / "screw/ground_truth"
    for name, mask in list(zip(splits.test.ids, splits.test.masks, strict=True))[41::10]:
        _, kind, file = name.split("/")
        marked = np.asarray(Image.open(folder / kind / file.replace(".png", "_mask.png"))) > 0
        rows, columns = np.nonzero(marked)
        found_rows, found_columns = np.nonzero(mask.numpy())
        # In pixels of 64; a pixel is half marked or not, which shifts a centre by less than one.
        assert abs(rows.mean() / 4 - found_rows.mean()) < 1 and abs(columns.mean() / 4 - found_columns.mean()) < 1


def test_the_category_is_found_in_any_of_its_places(packs, mvtec, tmp_path):
    folder = unpacked(packs / "mvtec/mvtec-leather-sample-256.zip", str(tmp_path / "cache"))
    (tmp_path / "all").mkdir()
    (tmp_path / "all/mvtec_anomaly_detection").symlink_to(folder)
    ids = [mvtec(root, "leather").load(NOTHING).test.ids for root in (folder, folder / "leather", tmp_path / "all")]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 15
    assert mvtec(folder, "leather").load(NOTHING).image_shape == (3, 64, 64)


@pytest.mark.parametrize("is_there", [False, True])
def test_missing_files_say_where_they_come_from(tmp_path, mvtec, is_there):
    if is_there:
        (tmp_path / "root/bottle/train/good").mkdir(parents=True)
    with pytest.raises(DataError, match="site of MVTec, .* dataset.root to the folder that holds screw/") as caught:
        mvtec(tmp_path / "root").load(NOTHING)
    assert str(tmp_path / "root") in str(caught.value) and "\n" not in str(caught.value)


def test_a_category_without_tests_is_not_whole(packs, mvtec, tmp_path):
    folder = unpacked(packs / "mvtec/mvtec-leather-sample-256.zip", str(tmp_path / "cache"))
    (folder / "leather/test").rename(folder / "leather/elsewhere")
    with pytest.raises(DataError, match="leather/test lacks good or every defect"):
        mvtec(folder, "leather").load(NOTHING)


def test_categories(tmp_path, mvtec):
    with pytest.raises(ValueError, match="^category must be one of bottle, .*Did you mean zipper?"):
        mvtec(tmp_path, "ziper")
    assert mvtec(tmp_path, "metal_nut").slug == "mvtec-metal_nut"


def test_the_yaml_holds_the_fields():
    values = yaml.safe_load((CONF / "mvtec.yaml").read_text())
    values.pop("defaults")
    assert values.pop("_target_") == "cfexplain.data.datasets.mvtec.Mvtec"
    assert set(values) == {field.name for field in fields_of(Mvtec)}
    assert yaml.safe_load((CONF / "mvtec_256.yaml").read_text()) == {"defaults": ["mvtec", "_self_"], "image_size": 256}
