"""Files of a run that hold something else, or too little: one line that names them, and exit code 3."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cfexplain.cli import main
from cfexplain.engine import checkpoint
from tests.conftest import TINY

QUICK = [word for word in TINY if not word.startswith("generator.")]
QUICK += ["detector.steps=20", "fit.steps=1", "detector=dsvdd", "generator=conv_plain"]
EXPLAIN = ["explain", "run=t", "second_detector=none", "num_cards=0", "num_film_strips=0", "features.num_steps=1"]
SHOW = ["explain", "run=t", "dry_run=true"]
MEASURE = ["evaluate", "run=e", "metric=[validity]", "run_dir=m"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, session_cache) -> Path:
    """A train run t, and e, which explains its test anomalies in several batches."""
    folder = tmp_path_factory.mktemp("runs")
    before = os.getcwd()
    os.chdir(folder)
    for words in (["train", *QUICK, "run_dir=t"], [*EXPLAIN, "batch_size=8", "run_dir=e"]):
        assert main([*words, f"cache_dir={session_cache}"]) == 0
    os.chdir(before)
    return folder


@pytest.fixture
def runs(inside, tmp_path, monkeypatch) -> Path:
    shutil.copytree(inside, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 3
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error, error
    return error


@pytest.mark.parametrize(("name", "words"), [
    ("t/run.json", SHOW), ("e/run.json", MEASURE), ("e/inspections/index.json", MEASURE),
])
@pytest.mark.parametrize("content", [b"[]", b"[" * 100_000, b'{"command": [], "class_names": 3}', b"\xff", b"{}"],
                         ids=["list", "deep", "other kinds", "no text", "empty"])
def test_a_json_file_of_another_kind(name, words, content, runs, capsys):
    Path(name).write_bytes(content)
    assert f"{name} is damaged" in refused(capsys, words)


@pytest.mark.parametrize("value", [1, [1], "x"])
def test_values_of_another_kind_in_a_sound_file(value, runs, capsys):
    record = json.loads(Path("e/run.json").read_text())
    Path("e/run.json").write_text(json.dumps({**record, "weights": value}))
    assert "e/run.json is damaged: weights is" in refused(capsys, MEASURE)


def test_a_note_of_the_latest_run_that_is_no_text(runs, capsys):
    Path("outputs").mkdir(exist_ok=True)
    Path("outputs/latest.txt").write_bytes(b"\xff\xfe")
    assert "outputs/latest.txt cannot be read" in refused(capsys, ["explain", "run=latest", "dry_run=true"])


def worded(values: dict) -> dict:
    return {**values, "explanations": {**values["explanations"], "threshold": "x"}}


def wider(values: dict) -> dict:
    return {**values, "explanations": {**values["explanations"], "logits": torch.zeros(1, 2, 3)}}


CHANGES: dict[str, Callable[[dict], dict]] = {
    "nothing of it": lambda values: {}, "no images": lambda values: {**values, "sources": {}},
    "a number": lambda values: {**values, "sources": 1}, "another shape": wider,
    "a word for a number": worded,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_batch_that_is_none(change, runs, capsys):
    file = runs / "e/inspections/00001.pt"
    values = checkpoint.load(file, "")
    checkpoint.save(file, CHANGES[change]({key: part for key, part in values.items() if key != "schema_version"}))
    assert "00001.pt is damaged" in refused(capsys, MEASURE)


def test_fewer_batches_than_were_explained(runs, capsys):
    assert main(MEASURE) == 0
    (runs / "e/inspections/00001.pt").unlink()
    assert "e/inspections has 32 of 40 explained images" in refused(capsys, [*MEASURE[:-1], "run_dir=n"])


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000], ids=["long", "longer"])
@pytest.mark.parametrize("words", [["explain", "run=%s"], ["train", "dataset=folder", "dataset.root=%s"],
                                   ["explain", "run=t", "images=%s"]], ids=["run", "root", "images"])
def test_a_name_that_no_file_can_have(words, name, runs, capsys):
    assert "xxxxx" in refused(capsys, [*words[:-1], words[-1] % name, "dry_run=true"])


def test_images_none_of_which_can_be_read_are_refused_before_anything_is_trained(runs, capsys):
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(b"nothing")
    assert "none of the 2 files can be read" in refused(capsys, ["explain", "run=t", "images=[a.png,b.png]"])
    assert not list(runs.glob("outputs/*/*/checkpoints"))
