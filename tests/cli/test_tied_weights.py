"""The weights of a run are those that it wrote: others are refused, of the same shape too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cfexplain.cli import main
from cfexplain.engine import checkpoint
from tests.conftest import TINY

QUICK = [*TINY, "detector.steps=20", "fit.steps=1", "detector=dsvdd", "generator=conv_plain"]
QUICK = [word for word in QUICK if not word.startswith("generator.")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, session_cache) -> Path:
    """Two runs, a and b, that differ in their seed alone."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", 0), ("b", 1)):
        assert main(["train", *QUICK, f"seed={seed}", f"run_dir={folder / name}", f"cache_dir={session_cache}"]) == 0
    return folder


@pytest.fixture
def run(inside, tmp_path, monkeypatch) -> Path:
    """A copy of a, with b beside it."""
    for name in "ab":
        shutil.copytree(inside / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return Path("a")


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 3
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error


@pytest.mark.parametrize("name", ["detector.pt", "generator.pt"])
def test_weights_of_another_run_of_the_same_shape_are_refused(name, run, capsys):
    shutil.copy(f"b/checkpoints/{name}", run / "checkpoints" / name)
    assert f"{name} is not the file that this run wrote" in refused(capsys, "explain", "run=a", "run_dir=x")
    if name == "detector.pt":  # which a run that is continued takes as well
        assert "is not the file" in refused(capsys, "train", "--from", "a/config.yaml", "run_dir=a")


def test_a_run_of_an_earlier_version_is_opened_with_a_note_but_not_with_nan(run, capsys):
    record = json.loads((run / "run.json").read_text())
    assert sorted(record.pop("weights")) == ["detector.pt", "generator.pt"]
    (run / "run.json").write_text(json.dumps(record))
    assert main(["evaluate", "run=a", "run_dir=e", "metric=[validity]"]) == 0
    notes = json.loads(Path("e/run.json").read_text())["warnings"]
    assert any("no digest of its weights" in note for note in notes)
    capsys.readouterr()
    for name in ("detector", "generator"):
        path = run / "checkpoints" / f"{name}.pt"
        values = torch.load(path, weights_only=True)
        whole = path.read_bytes()
        next(part for part in values[name].values() if part.ndim > 1)[0, 0] = torch.nan
        checkpoint.save(path, {key: part for key, part in values.items() if key != "schema_version"})
        assert "not finite" in refused(capsys, "evaluate", "run=a", f"run_dir={name}", "metric=[validity]")
        path.write_bytes(whole)


def test_a_shape_that_takes_all_memory_is_refused(run, capsys):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "weights": {}}))
    path = run / "checkpoints/generator.pt"
    values = torch.load(path, weights_only=True)
    checkpoint.save(path, {"image_shape": [3, 100_000, 100_000], "generator": values["generator"]})
    assert "no checkpoint of a detector or generator" in refused(capsys, "explain", "run=a", "run_dir=x")
