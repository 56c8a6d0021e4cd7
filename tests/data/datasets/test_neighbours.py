"""Neighbours: what each class is for, by the names it may have; mistakes of names and folders in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cfexplain.cli import main
from cfexplain.data.datasets.neighbours import find_classes, Neighbours
from cfexplain.data.exposures.none import Nothing
from cfexplain.data.exposures.supervised import Supervised
from cfexplain.errors import CfexplainError
from tests.data.folders import draw

ANIMALS = {"n1": "tabby, tabby cat", "n2": "Persian cat", "n3": "lion, king of beasts", "n4": "crane", "n5": "crane"}
NUM_TRAIN, NUM_TEST = 20, 4
NOTHING = Nothing(limit=None, seed=0)


@pytest.fixture
def root(tmp_path) -> Path:
    """Five classes of noise, and their names: those of n4 and n5 are the same word."""
    top = tmp_path / "animals"
    for folder in ANIMALS:
        draw(top / "train" / folder, NUM_TRAIN)
        draw(top / "val" / folder, NUM_TEST)
    (top / "classes.txt").write_text("".join(f"{folder}\t{names}\n" for folder, names in ANIMALS.items()))
    return top


@pytest.fixture
def neighbours(fields, root):
    fields = {key: value for key, value in fields.items() if key != "download"}
    fields |= {"root": str(root), "image_size": 16, "flip": False, "crop_padding": 0, "normal": ["tabby"]}

    def make(**changes) -> Neighbours:
        return Neighbours(**fields | changes)

    return make


def others(*classes: str) -> Supervised:
    return Supervised(limit=None, seed=0, classes=list(classes))


def folders(ids: tuple[str, ...]) -> set[str]:
    return {image_id.rpartition("/")[0] for image_id in ids}


def test_a_class_is_learned_tested_or_exposed_and_never_two_of_it(neighbours):
    splits = neighbours(anomalous=["Persian cat"]).load(others("*"))
    assert folders(splits.train.ids) == folders(splits.held_out.ids) == {"train/n1"}
    assert folders(splits.test_normals.ids) == {"val/n1"} and folders(splits.test_anomalies.ids) == {"val/n2"}
    assert folders(splits.exposure.ids) == {"train/n3", "train/n4", "train/n5"}
    assert [len(splits.train), len(splits.held_out), len(splits.exposure)] == [18, 2, 60]
    # the classifiers of the metrics know all of them
    assert torch.bincount(splits.reference.classes).tolist() == [NUM_TRAIN] * 5
    assert splits.class_names == ("tabby", "Persian cat", "lion", "n4", "n5")


def test_without_a_list_all_others_are_tested_and_none_is_left_as_exposure(neighbours):
    splits = neighbours(anomalous=None).load(NOTHING)
    assert torch.bincount(splits.test_anomalies.classes).tolist() == [0] + [NUM_TEST] * 4
    with pytest.raises(CfexplainError, match="no anomalous training images"):
        neighbours(anomalous=None).load(others("*"))


@pytest.mark.parametrize("words", [["n1", "n3"], ["tabby", "lion"], ["king of beasts", "tabby cat"]])
def test_folders_names_and_synonyms_mean_the_same(neighbours, words):
    assert neighbours(normal=words, anomalous=["n4"]).normal_classes == (0, 2)


def test_a_folder_s_name_counts_more_than_another_s_synonym(root):
    (root / "train/n3").rename(root / "train/crane")
    (root / "val/n3").rename(root / "val/crane")
    found = find_classes(root)
    assert found.folders[found.index_of["crane"]] == "crane" and "lion" not in found.index_of
    assert len(set(found.names)) == 5


def test_without_a_table_folders_are_the_names_and_test_comes_before_val(neighbours, root):
    (root / "classes.txt").unlink()
    shutil.copytree(root / "val", root / "test")
    (root / "test/n1/000.png").unlink()
    splits = neighbours(normal=["n1"], anomalous=["n2"]).load(NOTHING)
    assert splits.class_names == tuple(ANIMALS) and len(splits.test_normals) == NUM_TEST - 1
    shutil.rmtree(root / "test")
    (root / "test/images").mkdir(parents=True)  # unlabelled, as Tiny ImageNet's own are
    assert len(neighbours(normal=["n1"], anomalous=["n2"]).load(NOTHING).test_normals) == NUM_TEST


def test_a_zip_holds_the_same_at_any_size(neighbours, root):
    packed = shutil.make_archive(str(root.parent / "pack"), "zip", root.parent, root.name)
    spec = {"anomalous": ["Persian cat"], "image_size": 24}
    plain, zipped = (neighbours(root=place, **spec).load(NOTHING) for place in (str(root), packed))
    assert plain.image_shape == (3, 24, 24) and plain.train.ids == zipped.train.ids
    assert torch.equal(plain.test.images, zipped.test.images)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


MISTAKES = {  # what is typed, what is done to the folder, exit code, words
    "unknown": (["dataset.anomalous=[Persan cat]"], None, 2, "no class 'Persan cat' in animals; there are tabby, "
                "Persian cat, lion, n4, n5. Did you mean Persian cat?"),
    "unknown normal": (["dataset.normal=[tiger]"], None, 2, "dataset.normal: no class 'tiger'"),
    "ambiguous": (["dataset.anomalous=[crane]"], None, 2, "no class 'crane'"),
    "overlap": (["dataset.anomalous=[lion,n1]"], None, 2, "dataset.anomalous: tabby is normal too"),
    "twice": (["dataset.anomalous=[lion,n3]"], None, 2, "dataset.anomalous names a class twice: lion, n3"),
    "none": (["dataset.anomalous=[]"], None, 2, "dataset.anomalous is empty"),
    "all normal": (["dataset.normal=[n1,n2,n3,n4,n5]"], None, 2, "no anomaly is left"),
    "padding": (["dataset.crop_padding=16"], None, 2, "crop_padding must lie in 0 to 15"),
    "size": (["dataset.image_size=4"], None, 2, "image_size must be >= 8"),
    "no root": ([], lambda root: root.rename(root.with_name("elsewhere")), 3, "animals is not there"),
    "no train": ([], lambda root: shutil.rmtree(root / "train"), 3, "animals holds no folder train"),
    "no val": ([], lambda root: shutil.rmtree(root / "val"), 3, "neither test nor val of animals holds a class"),
    "empty normal": ([], lambda root: empty(root / "train/n1"), 3, "no images in animals/train/n1 (tabby)"),
    "empty anomaly": (["dataset.anomalous=[lion]"], lambda root: empty(root / "val/n3"), 3,
                      "no images in animals/val/n3 (lion)"),
    "no picture": ([], lambda root: (root / "train/n4/000.png").write_text("none"), 3, "train/n4/000.png is no image"),
    "table": ([], lambda root: (root / "classes.txt").write_bytes(b"n1\t\xff"), 3, "classes.txt cannot be read"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, root, monkeypatch, session_cache, capsys):
    words, damage, code, wanted = MISTAKES[name]
    monkeypatch.setenv("CFEXPLAIN_CACHE", str(session_cache))
    monkeypatch.chdir(root.parent)
    sound = ["train", "dataset=neighbours", "dataset.root=animals", "dataset.image_size=16", "exposure=confetti",
             "runtime=cpu", "dry_run=true"]
    assert main(sound) == 0  # else any complaint would do
    capsys.readouterr()
    if damage is not None:
        damage(root)
    assert main([*sound, *words]) == code
    error = capsys.readouterr().err
    assert wanted in error and len(error.strip().splitlines()) == 1, error


def test_a_run_s_name_tells_what_is_normal_and_what_is_not(neighbours):
    assert neighbours().slug == "neighbours-tabby"
    assert neighbours(anomalous=["lion", "Persian cat"]).slug == "neighbours-tabby-persian_cat_lion"
    assert len(neighbours(anomalous=["a long name"] * 20).slug) == 80


def test_the_real_pack(packs, neighbours):
    pack = packs / "tiny-imagenet-32/tiny-imagenet-cats-dogs-32.zip"
    if not pack.is_file():
        pytest.skip("no tiny-imagenet-32 in ../shared/data beside the repository")
    spec = neighbours(root=str(pack), image_size=32, anomalous=["Persian cat", "Egyptian cat"])
    splits = spec.load(others("*"))
    assert [len(splits.train), len(splits.held_out), len(splits.exposure)] == [450, 50, 3500]
    counts = torch.bincount(splits.test.classes, minlength=10).tolist()
    assert dict(zip(splits.class_names, counts, strict=True)) == {
        "Yorkshire terrier": 0, "golden retriever": 0, "Labrador retriever": 0, "German shepherd": 0, "tabby": 50,
        "Persian cat": 50, "Egyptian cat": 50, "cougar": 0, "lion": 0, "brown bear": 0,
    }
    assert folders(splits.exposure.ids) == {
        f"train/{wnid}" for wnid in ("n02094433", "n02099601", "n02099712", "n02106662", "n02125311", "n02129165",
                                     "n02132136")
    }
