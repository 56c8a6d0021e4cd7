"""A folder that is no run of ours stays as it is, whatever its files are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cfexplain.cli import main

MISSING = ["train", "dataset=mnist", "dataset.root=nowhere", "stage=detector"]  # ends with 3, before torch is needed
DOT_FILES = (".config.json-backup", ".notes.2026-11", ".profile.old-2025", ".list.txt-20261124")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    for name in DOT_FILES:
        Path("own", name).write_text(f"mine: {name}")
    return Path("own")


def content(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "text"), [
    ("run.json", '{"distance": 12}'),
    ("run.json", json.dumps({"schema_version": 1, "command": "jog"})),
    ("config.yaml", "a: 1"),
    (".lock", "mine"),
    ("sweep.json", "[]"),
])
@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_folder_that_is_no_run_is_refused_and_nothing_in_it_touched(name, text, words, own, capsys):
    (own / name).write_text(text)
    before = content(own)
    assert main([*MISSING, *words, "run_dir=own"]) == 2
    error = capsys.readouterr().err
    assert "no run of cfexplain" in error and len(error.strip().splitlines()) == 1, error
    assert content(own) == before


def test_somebodys_lock_alone_is_no_run(own):
    for name in DOT_FILES:
        (own / name).unlink()
    (own / ".lock").write_text("mine")
    assert main([*MISSING, "run_dir=own"]) == 2
    assert content(own) == {"own/.lock": "mine"}


def test_a_run_that_is_continued_keeps_what_somebody_put_beside_it(tmp_path, own, monkeypatch):
    before = content(own)
    for name in DOT_FILES:
        (own / name).rename(tmp_path / name)
    assert main([*MISSING, "run_dir=own"]) == 3  # an empty folder is taken
    for name in DOT_FILES:
        (tmp_path / name).rename(own / name)
    assert main([*MISSING, "run_dir=own"]) == 3
    assert before.items() <= content(own).items()
    assert len(json.loads((own / "run.json").read_text())["attempts"]) == 1
    (own / "run.json").unlink()  # as if killed before it had one
    assert main([*MISSING, "run_dir=own"]) == 3
    assert before.items() <= content(own).items()
