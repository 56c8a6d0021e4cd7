"""Sweeps run all their jobs and exit with the worst; a stopped run says so and goes on to the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, TINY


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_sweep_runs_all_jobs_and_exits_with_the_worst(cfexplain, tmp_path):
    # the first job fails while it runs (a loss that is not finite), the second does not
    done = cfexplain("train", "-m", *TINY, "stage=detector", "detector.learning_rate=1e30,0.001", "--json")
    (sweep,) = (tmp_path / "outputs" / "train").iterdir()
    records = [read(sweep / job / "run.json") for job in ("0", "1")]
    assert [(record["status"], record["exit_code"]) for record in records] == [("failed", 1), ("done", 0)]
    assert done.code == 1
    results = [json.loads(line) for line in done.stdout.splitlines()]  # stdout holds JSON alone
    assert [result["exit_code"] for result in results] == [1, 0]
    assert results[1]["metrics"]["detector_auroc"] == read(sweep / "1" / "metrics.json")["detector_auroc"]
    assert "Traceback" in (sweep / "0" / "cfexplain.log").read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_of_missing_data_exits_with_3(cfexplain):
    done = cfexplain("train", "-m", "dataset=mnist", "dataset.root=nowhere,nowhere2", "runtime=cpu")
    assert done.code == 3, done.stderr


@pytest.mark.slow
def test_a_glob_of_presets_is_a_sweep_whose_jobs_share_the_other_values(cfexplain, tmp_path):
    # the jobs lack data, which is soon found out; dataset.root is no key of the default dataset
    done = cfexplain("train", "-m", "experiment=glob(mnist-multi-*-bce-quick)", "dataset.root=[a,b]", "runtime=cpu")
    assert done.code == 2 and "dataset.root" in done.stderr  # a list stays a list
    done = cfexplain("train", "-m", "experiment=glob(mnist-multi-*-bce-quick)", "dataset.root=nowhere", "runtime=cpu")
    assert done.code == 3, done.stderr
    jobs = list((tmp_path / "outputs" / "train").glob("sweep-*/*/config.yaml"))
    configs = [yaml.safe_load(job.read_text()) for job in jobs]
    assert {config["experiment"] for config in configs} == {
        f"mnist-multi-{pair}-bce-quick" for pair in ("1_7", "8_9", "0_6", "3_5", "2_4")
    }
    assert {config["dataset"]["root"] for config in configs} == {"nowhere"}


def test_a_bad_value_anywhere_in_a_sweep_stops_it_before_it_starts(cfexplain, tmp_path):
    done = cfexplain("train", "-m", "seed=0,1,-1")
    assert done.code == 2 and "got -1" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_saved_config_alone_repeats_the_run(cfexplain, tmp_path):
    import torch

    assert cfexplain("train", *TINY, "seed=3", "run_dir=a").code == 0
    assert cfexplain("train", "--from", "a/config.yaml", "run_dir=b").code == 0
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()
    assert (tmp_path / "a" / "metrics.json").read_text() == (tmp_path / "b" / "metrics.json").read_text()
    one, other = (torch.load(tmp_path / name / "checkpoints" / "generator.pt", weights_only=True) for name in "ab")
    assert all(torch.equal(one["generator"][key], other["generator"][key]) for key in one["generator"])
    refused = cfexplain("train", "--from", "a/config.yaml", "detector=hsc")
    assert refused.code == 2 and "--from repeats a run" in refused.stderr


@pytest.mark.slow
def test_run_dir_refuses_another_config(cfexplain, tmp_path):
    assert cfexplain("train", *TINY, "stage=detector", "run_dir=a").code == 0
    done = cfexplain("train", *TINY, "stage=detector", "run_dir=a", "detector.steps=31")
    assert done.code == 2 and "another detector.steps" in done.stderr
    # the stage may change: that is how the generator is trained after the detector
    assert cfexplain("train", *TINY, "stage=generator", "run_dir=a").code == 0
    assert (tmp_path / "a" / "checkpoints" / "generator.pt").exists()


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m cfexplain train --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_dry_run_counts_and_makes_nothing(cfexplain, tmp_path):
    done = cfexplain("train", *TINY, "dry_run=true")
    assert done.code == 0, done.stderr
    assert "train 216, held out 24, exposure 200, test normal 40, test anomalous 40" in done.stdout
    assert "generator:" in done.stdout and "folder (not made): outputs/train/glyphs-red-1-bce/" in done.stdout
    assert list(tmp_path.iterdir()) == []
