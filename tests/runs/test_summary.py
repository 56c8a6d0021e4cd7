"""The table of many runs, from folders written by hand: columns, groups, reasons, files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cfexplain.command_line import swept
from cfexplain.errors import ConfigError, DataError
from cfexplain.reporting.summary_files import write_summary
from cfexplain.runs.lookup import reason_of, record_of, run_folders, status_of
from cfexplain.runs.summary import summarize
from cfexplain.runs.sweep import is_done, note_sweep, take_gpu, visible_gpus


def write_run(folder: Path, command: str = "train", status: str = "done", config=None, metrics=None, **record) -> Path:
    folder.mkdir(parents=True)
    known = {"command": command, "status": status, "exit_code": 0, "host": os.uname().nodename, "pid": os.getpid()}
    (folder / "run.json").write_text(json.dumps({**known, **record}))
    (folder / "config.yaml").write_text(yaml.safe_dump(config or {}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps({"schema_version": 1, **metrics}))
    return folder


def train_config(dataset: str, normal: str, seed: int, **more):
    return {
        "dataset": {"_target_": f"data.{dataset.capitalize()}", "name": normal, "root": f"/{dataset}"},
        "detector": {"_target_": "detectors.Bce", "steps": 5},
        "encoder": {"_target_": f"encoders.For{dataset.capitalize()}", "width": len(dataset)},
        "seed": seed, "device": "cpu", "stage": "all", **more,
    }


def slug(dataset) -> str:
    return f"{dataset['_target_'].rpartition('.')[2].lower()}-{dataset['name']}"


def test_means_over_seeds_then_over_normal_sets_which_count_once(tmp_path):
    # normal set a: seeds 0, 1, 2; b: seed 0 alone. By hand: a has mean 2, std 1; b 8; over both 5, std sqrt(18).
    for name, normal, seed, value in (("0", "a", 0, 1.0), ("1", "a", 1, 2.0), ("2", "a", 2, 3.0), ("3", "b", 0, 8.0)):
        write_run(tmp_path / name, config=train_config("mnist", normal, seed), metrics={"cf_auroc": value})
    write_run(tmp_path / "4", status="failed", config=train_config("mnist", "b", 1), metrics={"cf_auroc": 100.0})
    found = summarize(run_folders(str(tmp_path)), slug)
    a, b = found.over_seeds
    assert (a.values["normal"], a.num_done, a.num_members) == ("a", 3, 3)
    assert (a.metrics["cf_auroc"].mean, a.metrics["cf_auroc"].std, a.metrics["cf_auroc"].n) == (2.0, 1.0, 3)
    assert (b.num_done, b.num_members, b.metrics["cf_auroc"].mean, b.metrics["cf_auroc"].std) == (1, 2, 8.0, None)
    (both,) = found.over_normals
    assert (both.metrics["cf_auroc"].mean, both.num_done) == (5.0, 2)
    assert both.metrics["cf_auroc"].std == pytest.approx(18 ** 0.5)
    assert "normal" not in both.values and "seed" not in both.values


def test_a_column_for_what_tells_cells_apart_and_none_for_what_follows(tmp_path):
    # the dataset brings its encoder and root along; device and stage do not matter; fit.steps differs by itself
    for number, (dataset, steps) in enumerate([("mnist", 1), ("mnist", 2), ("gtsrb", 1), ("gtsrb", 2)]):
        config = train_config(dataset, "a", number, fit={"steps": steps}) | {"device": str(number)}
        write_run(tmp_path / str(number), config=config)
    assert summarize(run_folders(str(tmp_path)), slug).columns == ("dataset", "normal", "detector", "seed", "fit.steps")


def test_an_evaluate_run_stands_for_its_train_run(tmp_path):
    write_run(tmp_path / "t", config=train_config("mnist", "a", 7), metrics={"detector_auroc": 0.9})
    write_run(tmp_path / "x", "explain", config={"run": "t"}, metrics={"validity": 0.5}, parents=["../t"])
    write_run(tmp_path / "e", "evaluate", config={"run": "x", "metric": {"fid": {"features": "f"}}},
              metrics={"cf_auroc": 0.4, "fid_normalized": None}, parents=["../t", "../x"])
    (cell,) = summarize(run_folders(str(tmp_path)), slug).cells
    assert cell.folder.name == "e" and cell.values["seed"] == "7"
    assert cell.metrics == {"detector_auroc": 0.9, "validity": 0.5, "cf_auroc": 0.4}


def test_the_reason_is_the_last_error_of_the_log(tmp_path):
    run = write_run(tmp_path / "0", status="failed")
    log = "[2026][cfexplain][ERROR] a loss is not finite\nTraceback (most recent call last):\n  File\ncfexplain.X: y\n"
    (run / "cfexplain.log").write_text(log)
    assert reason_of(run, record_of(run)) == "a loss is not finite"
    log += "[2026][cfexplain][INFO] again\n[2026][cfexplain][ERROR] failed\nTraceback (most recent call last):\n" \
           "  File\nKeyError: 'k'\n[2026][cfexplain][INFO] failed in 0:01\n"
    (run / "cfexplain.log").write_text(log)
    assert reason_of(run, record_of(run)) == "KeyError: 'k'"


def test_a_run_whose_process_is_gone_has_died(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert status_of(record_of(write_run(tmp_path / "0", status="running", pid=gone.pid))) == "died"
    assert status_of(record_of(write_run(tmp_path / "1", status="running"))) == "running"
    assert status_of(record_of(write_run(tmp_path / "2", status="running", pid=gone.pid, host="other"))) == "running"


def test_the_files_survive_awkward_text(tmp_path):
    write_run(tmp_path / "0", status="failed", reason="50 % of a_b | c & d ± 1\nsecond line")
    found = summarize(run_folders(str(tmp_path)), slug)
    write_summary(found, tmp_path, {"cf_auroc": "0.5"})
    assert r"50 \% of a\_b | c \& d $\pm$ 1 second line \\" in (tmp_path / "summary.tex").read_text()
    assert r"a_b \| c & d" in (tmp_path / "summary.md").read_text()
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["50 % of a_b | c & d ± 1 second line"]


def test_runs_are_counted_as_people_count_and_passed_to_hydra_unharmed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s/10", "s/2", "s/1", "it's/0"):
        write_run(Path(name))
    (tmp_path / "s" / ".submitit").mkdir()
    assert swept("seed=1") == "seed=1" and swept("run=s") == "run='s/1','s/2','s/10'"
    assert swept("run='s/1*'") == "run='s/1','s/10'"
    assert swept("run=s/1,s/2") == "run=s/1,s/2" and swept("run=latest") == "run=latest"
    assert swept("run=it's") == r"run='it\'s/0'"
    with pytest.raises(DataError, match="no run in nowhere"):
        swept("run=nowhere/*")


def test_a_cell_is_done_while_its_config_and_its_parents_are_the_same(tmp_path):
    config = {"seed": 1, "run": "../t", "device": "cuda", "dataset": {"cache_dir": "here"}}
    parent = write_run(tmp_path / "t", started="2026-01-01T00:00:00Z")
    run = write_run(tmp_path / "x", "explain", config=config, started="2026-01-02T00:00:00Z", parents=["../t"])
    assert is_done(run, config)
    assert is_done(run, config | {"device": "cpu", "dataset": {"cache_dir": "there"}})
    assert not is_done(run, config | {"seed": 2})
    record = json.loads((parent / "run.json").read_text())
    (parent / "run.json").write_text(json.dumps(record | {"started": "2026-01-03T00:00:00Z"}))
    assert not is_done(run, config)  # trained again since
    assert not is_done(write_run(tmp_path / "y", status="failed", config=config), config)


def test_a_folder_keeps_to_its_sweep(tmp_path):
    note_sweep(tmp_path, "train", ["seed=0,1", "device=cpu", "run_dir=a", "stage=detector", "hydra/launcher=joblib"])
    note_sweep(tmp_path, "train", ["seed=0,1", "device=cuda", "stage=all"])
    others = (("train", ["seed=0,1,2"]), ("explain", ["seed=0,1"]), ("train", ["seed=0,1", "fit.steps=2"]))
    for command, words in others:
        with pytest.raises(ConfigError, match="holds another sweep"):
            note_sweep(tmp_path, command, words)


def test_workers_take_different_gpus(tmp_path):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,5"}) == ["3", "5"]
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert visible_gpus({}, nodes=tmp_path) == ["0", "1"]
    assert take_gpu(tmp_path, ["0"], 0) is None
    taken = [take_gpu(tmp_path, ["a", "b"], number) for number in (4, 4, 4, 5)]  # a lock of one's own is a lock too
    assert taken == ["a", "b", "a", "b"]  # the first two for themselves, the others share


def test_a_launcher_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert swept("hydra/launcher=basic") == "hydra/launcher=basic"
    with pytest.raises(ConfigError, match="no sbatch|not installed"):
        swept("hydra/launcher=submitit_slurm")
