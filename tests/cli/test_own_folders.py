"""A folder that is no run of ours stays as it is, whatever its files are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cfexplain.cli import main
from tests.conftest import ROOT

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


@pytest.mark.parametrize("words", [["train", "dry_run=true"], ["evaluate", "runs=x"], ["doctor"]])
def test_a_working_folder_that_was_deleted(words, tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(words) == 2
    assert capsys.readouterr().err == "cfexplain: the working folder has been deleted; change to one that is there\n"


@pytest.mark.slow
def test_a_run_that_may_not_be_written(tmp_path):
    """One line each, and not the exit code of the attempt before. Children become nobody, since root may do all."""
    for folder in tmp_path.parents:
        if "pytest-" in str(folder) and folder.owner() == Path.home().owner():
            folder.chmod(0o755)
    small = ["detector.steps=2", "fit.steps=1", "encoder.width=4", "detector.batch_size=4", "fit.batch_size=4",
             "runtime.num_threads=1", "cache_dir=cache", "run_dir=t"]
    code = (
        "import os\nfrom pathlib import Path\nfrom cfexplain.cli import main\n"
        f"args = ['train', *{small!r}]\nassert main(args) == 0\n"
        "for closed, mode in ('t', 0o555), ('t/checkpoints', 0o555), ('t/checkpoints', 0), ('t/history.jsonl', 0):\n"
        "    for path in [Path('.'), *Path('.').rglob('*')]: path.chmod(0o777)\n"
        "    Path(closed).chmod(mode)\n"
        "    if (child := os.fork()) == 0:\n"
        "        if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "        os._exit(main(args))\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    Path(closed).chmod(0o777)\n"
        "    print('exit code', code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert [line[-1] for line in done.stdout.splitlines() if line.startswith("exit code")] == list("2333"), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 4 and all("ermission denied" in line and "traceback" not in line for line in lines), lines
