"""evaluate sheet=true and sheet_answers=: a sheet of a run, and what readers said of it."""

import json
import re
from pathlib import Path

import pytest

from cfexplain.cli import main
from tests.conftest import TINY, run_cfexplain

SHEET = ["evaluate", "sheet=true", "num_sheet_pairs=12", "runtime=cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, session_cache) -> Path:
    """run: a train run; sheet, of it: a sheet of twelve pairs; answers of two readers, b.json's of ten pairs."""
    folder = tmp_path_factory.mktemp("sheet")
    for words in (["train", *TINY, "detector.steps=120", "run_dir=run"], [*SHEET, "run=run", "run_dir=sheet"]):
        done = run_cfexplain(folder, session_cache, *words)
        assert done.code == 0, done.stderr
    key = key_of(folder / "sheet")
    for name, sides in (("a", "LLLLLLRRRRRR"), ("b", "LRLRLRLRLR")):
        answers = [{"pair": number, "side": {"L": "left", "R": "right"}[side], "seconds": 2.0}
                   for number, side in enumerate(sides)]
        values = {"sheet": key["sheet"], "reader": name, "answers": answers}
        (folder / f"{name}.json").write_text(json.dumps(values))
    (folder / "other.json").write_text(json.dumps({**values, "sheet": "0" * 16}))
    (folder / "damaged.json").write_text('{"sheet": ')
    return folder


def key_of(folder: Path) -> dict:
    return json.loads((folder / "sheet_key.json").read_text())


@pytest.mark.slow
def test_a_sheet_has_its_key_beside_it_and_not_in_it(inside):
    page, key = (inside / "sheet/sheet.html").read_text(), key_of(inside / "sheet")
    assert page.count("<section class=pair") == 12 == len(key["pairs"]) and key["sheet"] in page
    assert json.loads((inside / "sheet/metrics.json").read_text())["num_real_pairs"] == 6
    words = re.sub(r"base64,[^\"]+", "", page)
    assert not any(pair["source"] in words for pair in key["pairs"]) and "nearest" not in words


@pytest.mark.slow
def test_a_seed_makes_the_same_sheet_of_an_explain_run_too(inside):
    assert main(["explain", "run=run", "runtime=cpu", "second_detector=none", "num_cards=0", "run_dir=explained"]) == 0
    assert main([*SHEET, "run=explained", "run_dir=again"]) == 0
    assert key_of(inside / "again") == key_of(inside / "sheet")
    assert (inside / "again/sheet.html").read_text() == (inside / "sheet/sheet.html").read_text()
    assert main([*SHEET, "run=explained", "seed=1", "sheet_against=[autoencoder]", "run_dir=seed",
                 "metric.baselines.autoencoder_steps=2"]) == 0
    other = key_of(inside / "seed")
    assert other["sheet"] != key_of(inside / "sheet")["sheet"]
    assert {pair[side] for pair in other["pairs"] for side in ("left", "right")} == {"real", "cfexplain", "autoencoder"}


@pytest.mark.slow
def test_answers_become_numbers(inside, capsys):
    assert main(["evaluate", "run=sheet", "sheet_answers=[a.json,b.json]", "run_dir=said"]) == 0
    said, metrics = capsys.readouterr().out, json.loads((inside / "said/metrics.json").read_text())
    page, pairs = (inside / "said/report.html").read_text(), key_of(inside / "sheet")["pairs"]
    sides = ["LLLLLLRRRRRR", "LRLRLRLRLR"]
    chosen = [(pair, pair[{"L": "left", "R": "right"}[text[number]]])
              for text in sides for number, pair in enumerate(pairs) if number < len(text)]
    for name, question, method, hit in (
        ("taken_for_real_cfexplain", "real", "cfexplain", "cfexplain"),
        ("taken_for_real_gradient", "real", "gradient", "gradient"),
        ("preferred_to_nearest", "explains", "nearest", "cfexplain"),
    ):
        asked = [side for pair, side in chosen if pair["question"] == question and method in pair.values()]
        assert metrics[f"{name}_answers"] == len(asked) > 1
        assert metrics[name] == pytest.approx(asked.count(hit) / len(asked))
        interval = f"{metrics[f'{name}_low']:.3f} to {metrics[f'{name}_high']:.3f}"
        assert re.search(rf"{name} +{metrics[name]:.3f} +{interval}", said) and interval in page
    # Six pairs of two answers, three alike; 9 of 12 are left: 1 - (6 / 12) / (54 / 132)
    assert metrics["krippendorffs_alpha_real"] == pytest.approx(1 - 0.5 / (54 / 132))
    assert metrics["num_readers"] == 2 and metrics["seconds_per_answer"] == 2.0
    assert json.loads((inside / "said/run.json").read_text())["parents"] == ["../sheet"]
    assert main(["evaluate", "runs=[run,sheet,said]", "run_dir=summary"]) == 0
    cells = json.loads((inside / "summary/summary.json").read_text())["cells"]
    assert [Path(cell["cell"]).name for cell in cells] == ["run"]  # a sheet is no model


MISTAKES = {
    "another sheet": (["run=sheet", "sheet_answers=[a.json,other.json]"], 3, "other.json answers another sheet"),
    "damaged": (["run=sheet", "sheet_answers=[damaged.json]"], 3, "damaged.json is damaged"),
    "no such file": (["run=sheet", "sheet_answers=[none.json]"], 3, "no none.json"),
    "no sheet": (["run=run", "sheet_answers=[a.json]"], 3, "run is a run of 'train', wanted one of evaluate"),
    "no run": (["sheet_answers=[a.json]"], 2, "give one of run="),
    "a comparison": (["compare=[run,x]", "sheet_answers=[a.json]"], 2, "sheet_answers names each reader's file once"),
    "a reader twice": (["run=sheet", "sheet_answers=[a.json,a.json]"], 2, "names each reader's file once"),
    "no answers": (["run=sheet", "sheet_answers=[]"], 2, "sheet_answers must name at least one file"),
    "both": (["run=run", "sheet=true", "sheet_answers=[a.json]"], 2, "give one of them"),
    "many runs": (["runs=[run]", "sheet=true"], 2, "sheet=true is about one run"),
    "too few pairs": (["run=run", "sheet=true", "num_sheet_pairs=1"], 2, "num_sheet_pairs must be >= 2"),
    "too many pairs": (["run=run", "sheet=true", "num_sheet_pairs=400"], 2, "raise an alarm; ask for fewer pairs"),
    "no simpler way": (["run=run", "sheet=true", "sheet_against=[]"], 2, "sheet_against must name one or more"),
    "an unknown way": (["run=run", "sheet=true", "sheet_against=[nearst]"], 2, "Did you mean nearest?"),
    "no baselines": (["run=run", "sheet=true", "metric=[auroc]"], 2, "add baselines to metric"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(inside, capsys, name):
    args, code, words = MISTAKES[name]
    assert main(["evaluate", "runtime=cpu", *args]) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]


@pytest.mark.slow
def test_a_dry_run_makes_nothing(inside, capsys):
    before = sorted(inside.rglob("*"))
    assert main([*SHEET, "run=run", "dry_run=true"]) == 0
    assert main(["evaluate", "run=sheet", "sheet_answers=[a.json]", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "a sheet of 12 pairs" in said and "sheet/sheet.html; readers: 1" in said
    assert sorted(inside.rglob("*")) == before
