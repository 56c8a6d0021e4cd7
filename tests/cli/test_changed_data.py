"""Data that changed, or moved, after a training: nothing stale comes back, and what was learned from stays known."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.cli import main
from cfexplain.commands.trained_run import open_run
from tests.conftest import run_cfexplain

SIDE = 32
SMALL = [
    "dataset=folder", "dataset.image_size=32", "encoder=conv", "encoder.width=4", "exposure=confetti",
    "exposure.limit=30", "generator=conv_small", "generator.width=8", "generator.discriminator_width=8",
    "generator.concept_width=8", "detector.steps=5", "detector.batch_size=8", "fit.steps=2", "fit.batch_size=8",
    "runtime=cpu",
]
QUICK = ["second_detector=none", "num_film_strips=0", "features.num_steps=2", "num_grid_images=2"]
pytestmark = pytest.mark.slow


def draw(folder: Path, names: list[str], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, session_cache) -> Path:
    """A folder `parts` and the run `t` that was trained on it."""
    folder = tmp_path_factory.mktemp("changed")
    draw(folder / "parts/normal", [f"n{number:02d}.png" for number in range(30)], 0)
    draw(folder / "parts/anomalous", [f"a{number}.png" for number in range(4)], 1)
    done = run_cfexplain(folder, session_cache, "train", *SMALL, "dataset.root=parts", "run_dir=t")
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture
def place(trained, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def rows(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def notes(run: str) -> str:
    return "\n".join(json.loads(Path(run, "run.json").read_text(encoding="utf-8"))["warnings"])


def splits_of(run: str):
    return open_run(run, "outputs", "cache", allow_custom_code=False).load_splits()


def explain(*words: str) -> list[dict[str, str]]:
    assert main(["explain", "run=t", *QUICK, "run_dir=x", *words]) == 0
    return rows("x/samples.csv")


def test_a_picture_replaced_under_its_name_is_explained_anew(inside):
    shutil.copy("parts/anomalous/a0.png", "latest.png")
    first = explain("images=[latest.png]")
    assert explain("images=[latest.png]") == first
    kept = Path("x/inspections/00000.pt").stat().st_mtime_ns
    explain("images=[latest.png]")
    assert Path("x/inspections/00000.pt").stat().st_mtime_ns == kept  # the same picture is not explained again
    shutil.copy("parts/anomalous/a1.png", "latest.png")
    (second,) = explain("images=[latest.png]")
    assert main(["explain", "run=t", *QUICK, "images=[parts/anomalous/a1.png]", "run_dir=y"]) == 0
    (same,) = rows("y/samples.csv")
    assert second["logit_before"] == same["logit_before"] != first[0]["logit_before"]


def test_cards_of_pictures_that_are_gone_go_too(inside):
    shutil.copytree("parts/anomalous", "own")
    explain("images=[own]")
    assert len(list(Path("x/cards").iterdir())) == 4
    Path("own/a0.png").unlink()
    assert len({row["id"] for row in explain("images=[own]")}) == len(list(Path("x/cards").iterdir())) == 3


def test_replaced_test_images_are_not_those_that_were_explained(inside, capsys):
    before = explain()
    shutil.copy("parts/anomalous/a1.png", "parts/anomalous/a0.png")  # known content under a known name
    assert main(["evaluate", "run=x", "metric=[validity]", "run_dir=e"]) == 3
    assert "explain again" in capsys.readouterr().err
    after = explain()
    assert {row["id"] for row in before} - {row["id"] for row in after} == {"anomalous/a0.png"}
    assert "0 images new, 0 gone, 1 changed" in notes("x")
    assert main(["evaluate", "run=x", "metric=[validity]", "run_dir=e"]) == 0


def test_a_folder_that_grew_keeps_the_split_of_the_run(inside, capsys):
    before = splits_of("t")
    for number in range(10):
        shutil.copy(f"parts/normal/n0{number}.png", f"parts/normal/m0{number}.png")
    draw(Path("parts/normal"), ["new.png"], 2)
    draw(Path("parts/anomalous"), ["fresh.png"], 3)
    with pytest.warns(UserWarning, match="12 images new, 0 gone, 0 changed"):
        after = splits_of("t")
    for part in ("train", "held_out", "test"):
        assert getattr(after, part).ids == getattr(before, part).ids
        assert (getattr(after, part).images == getattr(before, part).images).all()
    assert main(["explain", "run=t", *QUICK, "dry_run=true"]) == 0
    assert "12 images new" in capsys.readouterr().out
    explain()
    assert "12 images new" in notes("x")
    assert main(["evaluate", "run=t", "metric=[validity]", "run_dir=e"]) == 0
    assert "12 images new" in notes("e")


def test_gone_and_changed_images_take_no_part(inside):
    role_of = {row["id"]: row["role"] for row in rows("t/split.csv")}
    trained_on = [name for name, role in role_of.items() if role == "train"]
    tested = [name for name, role in role_of.items() if role == "test" and name.startswith("normal")]
    Path("parts", trained_on[0]).unlink()
    shutil.copy(Path("parts", trained_on[1]), Path("parts", tested[0]))  # what was learned from, as a test image
    Path("parts", trained_on[2]).rename("parts/normal/renamed.png")
    with pytest.warns(UserWarning, match="0 images new, 1 gone, 1 changed"):
        splits = splits_of("t")
    assert tested[0] not in splits.test.ids + splits.train.ids + splits.held_out.ids
    assert "normal/renamed.png" in splits.train.ids and len(splits.train) == len(trained_on) - 1


def test_a_training_that_goes_on_keeps_its_split(inside):
    Path("t/checkpoints/generator.pt").unlink()
    recorded = Path("t/split.csv").read_bytes()
    draw(Path("parts/normal"), ["a-new-one.png"], 2)
    assert main(["train", *SMALL, "dataset.root=parts", "run_dir=t"]) == 0
    assert Path("t/split.csv").read_bytes() == recorded and "1 images new, 0 gone, 0 changed" in notes("t")
    assert all(row["sha256"] for row in rows("t/split.csv"))


def test_a_run_without_content_in_its_table_knows_images_by_their_names(inside):
    before, file = splits_of("t"), Path("t/split.csv")
    lines = [line.rsplit(",", 1)[0] for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(Path("parts/normal"), ["a-new-one.png"], 2)
    with pytest.warns(UserWarning, match="1 images new, 0 gone, 0 changed"):
        assert splits_of("t").train.ids == before.train.ids


def test_data_that_moved_are_found_at_data_root(inside, capsys, monkeypatch):
    Path("parts").rename("moved")
    for command in ("explain", "evaluate"):
        assert main([command, "run=t", "dry_run=true"]) == 3
        error = capsys.readouterr().err
        assert "Set data_root to a folder" in error and "dataset.root" not in error
        assert main([command, "run=t", "data_root=moved", "dry_run=true"]) == 0
    explain("data_root=moved")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["evaluate", "run=../x", "data_root=../moved", "metric=[validity]", "run_dir=e"]) == 0
    assert not notes("e")
    draw(Path("other/normal"), [f"n{number:02d}.png" for number in range(30)], 9)
    assert main(["evaluate", "run=../t", "data_root=other", "dry_run=true"]) == 3
    assert "other holds no training image of ../t/split.csv. Set data_root" in capsys.readouterr().err
    assert main(["explain", "run=../t", "data_root=../moved", "exposure_root=x", "dry_run=true"]) == 2
    assert "exposure_root=x: the exposure of ../t has no folder" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new", "said"), [
    ("  root: parts\n", "  root: parts\n  shape: round\n", "unknown key dataset.shape"),
    ("  memory_limit_mb: 2048\n", "", "dataset.memory_limit_mb is not set"),
])
def test_a_run_with_other_keys_names_the_file_to_correct(inside, capsys, old, new, said):
    file = Path("t/config.yaml")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert main(["explain", "run=t", "dry_run=true"]) == 3
    error = capsys.readouterr().err
    assert said in error and "t/config.yaml" in error and "give it as" not in error
    file.write_text(text, encoding="utf-8")
    assert main(["explain", "run=t", "dry_run=true"]) == 0


def test_a_glob_takes_pictures_below_folders_of_any_name(inside):
    for name in ("line[1]", "labelled"):
        Path(name).mkdir()
        shutil.copy("parts/anomalous/a0.png", name)
    Path("labelled/a0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    table = explain("images=['line[1]/*.png',labelled/*]")
    assert [row["id"] for row in table] == ["labelled/a0.png", "line[1]/a0.png"]
    assert "left out: labelled/a0.txt" in Path("x/cfexplain.log").read_text(encoding="utf-8")


def test_names_that_are_no_utf8_and_long_ones_are_explained(inside):
    source = Path("parts/anomalous/a0.png").read_bytes()
    names = [b"own/stra\xdfe.png", b"own/stra\xfce.png", b"own/" + b"b" * 251 + b".png", b"own/dam\xe4ged.png"]
    Path("own").mkdir()
    for name in names:
        with open(name, "wb") as file:
            file.write(source if b"dam" not in name else b"no image")
    table = explain("images=[own]")
    assert {row["id"] for row in table} == {"own/stra\\xdfe.png", "own/stra\\xfce.png", "own/" + "b" * 251 + ".png"}
    assert len(list(Path("x/cards").iterdir())) == 3
    assert "dam\\udce4ged.png" in Path("x/cfexplain.log").read_text(encoding="utf-8")
    draw(Path("own"), [f"{number}.png" for number in range(20)], 5)
    words = ["exposure=folder", "exposure.root=own", "exposure.max_unreadable_fraction=0.5", "stage=detector"]
    assert main(["train", *SMALL, "dataset.root=parts", *words, "run_dir=t2"]) == 0
    assert {"exposure/stra\\xdfe.png", "exposure/stra\\xfce.png"} <= {row["id"] for row in rows("t2/split.csv")}


def test_exposure_images_that_changed_are_told(inside):
    draw(Path("others"), [f"o{number}.png" for number in range(8)], 4)
    words = [*SMALL, "dataset.root=parts", "exposure=folder", "exposure.root=others", "run_dir=o"]
    assert main(["train", *words]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits_of("o")
    draw(Path("others"), ["o0.png", "o8.png"], 5)
    with pytest.warns(UserWarning, match="not those of the training: 2 new, 1 gone since o/split.csv"):
        splits_of("o")
