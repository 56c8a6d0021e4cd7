"""explain: what its files say of one another, one's own images, the threshold, and going on after a kill."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfexplain.cli import main
from cfexplain.reporting.chosen_pictures import card_name
from cfexplain.inspection.base import VERDICTS
from cfexplain.inspection.saved import SavedInspections
from tests.conftest import TINY, run_cfexplain

NO_JUDGE = "second_detector=none"


@pytest.fixture(scope="module")
def place(tmp_path_factory, session_cache) -> Path:
    """A folder with a train run `t` in it."""
    folder = tmp_path_factory.mktemp("explain")
    done = run_cfexplain(folder, session_cache, "train", *TINY, "run_dir=t")
    assert done.code == 0, done.stderr
    return folder


def table(folder: str) -> list[dict[str, str]]:
    with Path(folder, "samples.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics(folder: str) -> dict:
    return json.loads(Path(folder, "metrics.json").read_text(encoding="utf-8"))


def explained(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, A, K, C, H, W) counterfactuals, and the sources in the same shape."""
    (inspection,) = SavedInspections(folder=Path(folder), remedy="")
    found = inspection.explanations
    return found.images, found.sources.images[:, None, None].expand_as(found.images)


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for number in range(count):
        Image.fromarray(rng.integers(256, size=(40, 30, 3), dtype=np.uint8)).save(folder / f"part {number}.png")


def test_cards_are_named_after_their_images():
    assert card_name("test/fold/000.png", is_own=False) == "test_fold_000"
    assert card_name("test/00042", is_own=False) == "test_00042"
    assert re.fullmatch("part_1-[0-9a-f]{10}", card_name("/here/monday/part 1.jpeg", is_own=True))


def test_each_image_has_a_card_of_its_own_name():
    long = ["b" * 251 + ".png", "b" * 250 + "c.png", "ж" * 127]
    names = ["part.png", "part-2.png", "left/part.png", "left_part.png", "right/part.png", "part.jpg", "Part.png",
             "零件.png", "деталь.png", "деталь 2.png", "...", "кор/деталь.png", "part-0123456789.png", *long]
    for is_own in (True, False):
        cards = [card_name(name, is_own) for name in names]
        assert len({card.casefold() for card in cards}) == len(names), cards
        assert max(len(f".{card}.png-01234567".encode()) for card in cards) <= 255
        assert all(card and not set(card) & set("/\\ :=,[]") for card in cards)
    assert card_name("part.png", is_own=True) == "part"
    assert card_name("零件.png", is_own=True).startswith("零件-")
    assert card_name("monday/деталь 2.png", is_own=True).startswith("деталь_2-")


@pytest.mark.slow
def test_counts_table_metrics_and_report_agree(inside, capsys):
    assert main(["explain", "run=t", "run_dir=x", "batch_size=16", "num_cards=5"]) == 0
    said, rows, values = capsys.readouterr().out, table("x"), metrics("x")
    counted = Counter(row["verdict"] for row in rows)
    assert len(rows) == 80 and set(counted) <= {verdict.value for verdict in VERDICTS}
    report = Path("x/report.html").read_text(encoding="utf-8")
    for verdict in VERDICTS:
        count = counted[verdict.value]
        assert values[f"share_{verdict}"] == pytest.approx(count / 80)
        assert f"{verdict} {count}" in said
        assert f'data-verdict="{verdict}"' in report and f"<td class=number>{count}</td>" in report.split(
            f'data-verdict="{verdict}"')[1][:400]
    for row in rows:
        passes = float(row["logit_after"]) <= float(row["threshold"])
        assert (row["verdict"] in ("ok", "adversarial", "off_manifold", "duplicate")) <= passes
        survived = [row[f"survives_{name}"] == "1" for name in ("jpeg", "shift", "blur", "second_detector")]
        assert (row["verdict"] == "ok") <= all(survived)
        assert float(row["repair_l1_distance"]) <= float(row["l1_distance"]) + 1e-6
        assert (float(row["repair_logit"]) <= float(row["threshold"]) + 1e-5) or not passes
    assert len(list(Path("x/cards").glob("*.png"))) == 5
    assert "http" not in report.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.slow
def test_a_run_that_lost_a_batch_makes_that_one_again(inside):
    assert main(["explain", "run=t", NO_JUDGE, "batch_size=16", "run_dir=y", "num_cards=2"]) == 0
    whole = {path.name: path.read_bytes() for path in Path("y/inspections").glob("*.pt")}
    text = Path("y/samples.csv").read_bytes()
    kept = Path("y/inspections/00000.pt").stat().st_mtime_ns
    Path("y/inspections/00002.pt").unlink()
    Path("y/inspections/00001.pt").write_bytes(whole["00001.pt"][:500])
    Path("y/samples.csv").unlink()
    assert main(["explain", "run=t", NO_JUDGE, "batch_size=16", "run_dir=y", "num_cards=2"]) == 0
    assert {path.name: path.read_bytes() for path in Path("y/inspections").glob("*.pt")} == whole
    assert Path("y/samples.csv").read_bytes() == text
    assert Path("y/inspections/00000.pt").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_the_threshold_follows_from_the_false_alarm_rate(inside):
    for rate in ("0.05", "0.3"):
        assert main(["explain", "run=t", NO_JUDGE, f"false_alarm_rate={rate}", f"run_dir=r{rate}", "num_cards=0"]) == 0
    usual, loose = (float(table(f"r{rate}")[0]["threshold"]) for rate in ("0.05", "0.3"))
    detector = torch.load("t/checkpoints/detector.pt", weights_only=True)["detector"]
    assert usual == pytest.approx(float(detector["threshold"]), rel=1e-5)
    assert loose < usual
    assert metrics("r0.3")["validity"] <= metrics("r0.05")["validity"]
    assert "false-alarm rate 0.3" in Path("r0.3/report.html").read_text(encoding="utf-8")
    assert "survives_second_detector" not in table("r0.05")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("auroc", "is_weak"), [(0.623, True), (0.912, False)])
def test_a_weak_detector_and_a_strange_test_set_are_said_in_the_report_and_at_the_end(inside, tmp_path, auroc, is_weak):
    run, out = tmp_path / "run", tmp_path / "x"
    shutil.copytree("t", run)
    interval = {"normals_auroc_low": 0.7 if is_weak else 0.5, "normals_auroc_high": 0.9}
    (run / "metrics.json").write_text(json.dumps({"detector_auroc": auroc, "normals_auroc": 0.8, **interval}))
    pictures(tmp_path / "own", 1)
    own = f"images=[{tmp_path / 'own'}]"
    assert main(["explain", f"run={run}", own, NO_JUDGE, f"run_dir={out}", "num_cards=0"]) == 0
    report = (out / "report.html").read_text(encoding="utf-8")
    notes = json.loads((out / "run.json").read_text())["warnings"]
    assert f"detector_auroc {auroc}" in report
    for said in ("a weak detector", "not like held-out normal ones"):
        assert (said in report) == any(said in note for note in notes) == is_weak


@pytest.mark.slow
def test_own_images_from_files_folders_and_lists(inside, tmp_path, capsys):
    pictures(tmp_path / "monday", 3)
    pictures(tmp_path / "tuesday/deep", 2)
    (tmp_path / "tuesday/list.txt").write_text("# two of them\ndeep/part 1.png\n\n../monday/part 0.png\n")
    Image.fromarray(np.full((50, 50), 40_000, np.uint16)).save(tmp_path / "sixteen.tif")
    Image.new("RGBA", (9, 17), (255, 0, 0, 100)).save(tmp_path / "clear.png")
    words = [f"{tmp_path}/monday", f"{tmp_path}/tuesday/list.txt", f"{tmp_path}/sixteen.tif", f"{tmp_path}/cl*.png"]
    images = "images=[" + ",".join(words) + "]"
    assert main(["explain", "run=t", NO_JUDGE, images, "run_dir=own"]) == 0
    names = {Path(row["id"]).name for row in table("own")}
    assert names == {"part 0.png", "part 1.png", "part 2.png", "sixteen.tif", "clear.png"}
    assert len(table("own")) == 2 * 6  # monday's part 0 is named twice and explained once; part 1 is in both folders
    assert metrics("own")["num_own_images"] == 6
    cards = sorted(re.sub("-[0-9a-f]{10}", "", path.name) for path in Path("own/cards").iterdir())
    assert cards == ["clear.png", "part_0.png", "part_1.png", "part_1.png", "part_2.png", "sixteen.png"]
    assert "next: open own/report.html" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_read_is_left_out_counted_and_named(inside, tmp_path, capsys):
    pictures(tmp_path / "parts", 3)
    (tmp_path / "parts/bad.png").write_text("no image")
    assert main(["explain", "run=t", NO_JUDGE, f"images=[{tmp_path}/parts]", "batch_size=2", "run_dir=some"]) == 0
    assert "1 of 4 images could not be read" in capsys.readouterr().out
    assert "bad.png is no image" in Path("some/cfexplain.log").read_text(encoding="utf-8")
    assert len(table("some")) == 6
    for name in ("bad.png", "gone.png"):
        shutil.rmtree("alone", ignore_errors=True)
        assert main(["explain", "run=t", NO_JUDGE, f"images=[{tmp_path}/parts/{name}]", "run_dir=alone"]) == 3
        error = capsys.readouterr().err
        assert name in error and len(error.strip().splitlines()) == 1
    (tmp_path / "list.txt").write_text("parts/nowhere.png\n")
    assert main(["explain", "run=t", f"images=[{tmp_path}/list.txt]", "dry_run=true"]) == 3
    assert "lists 1 files that are not there" in capsys.readouterr().err


@pytest.mark.slow
def test_the_detector_of_another_run_is_a_judge(inside, tmp_path, capsys):
    assert main(["train", *TINY, "seed=5", "run_dir=other"]) == 0
    assert main(["explain", "run=t", "second_detector=other", "run_dir=judged", "num_cards=0"]) == 0
    assert "survives_second_detector" in table("judged")[0]
    assert main(["explain", "run=t", "second_detector=nowhere", "run_dir=refused"]) == 3
    assert "no run at nowhere" in capsys.readouterr().err


def test_values_out_of_range_are_config_mistakes(inside, capsys):
    for text, word in (("false_alarm_rate=0", "false_alarm_rate"), ("num_cards=-1", "num_cards"),
                       ("alterations.jpeg_quality=99", "jpeg_quality"), ("features.width=0", "width")):
        assert main(["explain", "run=t", text]) == 2
        error = capsys.readouterr().err
        assert word in error and len(error.strip().splitlines()) == 1


def test_a_mask_or_a_box_confines_the_edits(inside, tmp_path, capsys):
    pictures(tmp_path / "own", 2)
    mask = np.zeros((40, 30), dtype=np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    said = ["explain", "run=t", f"images={tmp_path}/own", NO_JUDGE]
    for number, word in enumerate(["", f"mask={tmp_path}/mask.png", "box=[0,0,1,0.5]"]):
        assert main([*said, f"run_dir=m{number}", *([word] if word else [])]) == 0, capsys.readouterr().err
    (everywhere, sources), (masked, _), (boxed, _) = (explained(f"m{number}") for number in range(3))
    says_so = ["given by mask or box" in Path(f"m{number}/report.html").read_text("utf-8") for number in range(3)]
    assert says_so == [False, True, True]
    assert torch.equal(masked, boxed) and (everywhere[..., 14:, :] != sources[..., 14:, :]).any()
    assert torch.equal(masked[..., :14, :], everywhere[..., :14, :])
    assert torch.equal(masked[..., 14:, :], sources[..., 14:, :])
    assert main([*said, "run_dir=m1", "box=[0.5,0,1,1]"]) == 2  # that folder has another region's pictures
    assert "another mask" in capsys.readouterr().err
    for words, reason in ((["box=[0,0,1]"], "box must be"), (["box=[0.5,0,0.2,1]"], "box must be"),
                          (["box=[0,0,1,1]", "mask=a.png"], "give one of them")):
        assert main([*said, *words]) == 2 and reason in capsys.readouterr().err
    assert main(["explain", "run=t", "box=[0,0,1,1]"]) == 2 and "give images=part.png" in capsys.readouterr().err
    assert main([*said, "run_dir=m3", f"mask={tmp_path}/none.png"]) == 3 and "none.png" in capsys.readouterr().err
