"""A user's mistake: one line that says what and what to type, the right exit code, no folder, and soon."""

import gzip
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch

from tests.conftest import ROOT, TINY

MISTAKES = [
    (["nosuch"], "no command 'nosuch'"),
    (["trian"], "Did you mean train?"),
    (["train", "seeed=3"], "Did you mean seed?"),
    (["train", "encoder.widht=3"], "Did you mean encoder.width?"),
    (["train", "detector=bec"], "Did you mean bce?"),
    (["train", "experiment=mnist-single-1-bec"], "Did you mean mnist-single-1-bce?"),
    (["train", "-m", "experiment=" + "bias-green-glyphs," * 40 + "nosuch"], "no experiment 'nosuch'"),
    (["train", "-m", "experiment=glob(nosuch-*)"], "matches no experiment"),
    (["train", "-m", "seed=glob(1*)"], "seed is none"),
    (["train", "experiment=bias-green-glyphs", "exposure.classes=[]"], "exposure.classes is empty"),
    (["train", "seed=abc"], "seed"),
    (["train", "seed=-1"], "seed must be between 0"),
    (["train", "fit.steps=0"], "steps must be >= 1"),
    (["train", "detector.learning_rate=0"], "learning_rate must be > 0"),
    (["train", "seed=1,2"], "add -m"),
    (["train", "dataset=mnist", "dataset.normal=[11]"], "11"),
    (["train", "dataset=mnist", "dataset.normal=[0,1,2,3,4,5,6,7,8,9]"], "normal"),
    (["train", "dataset.normal_colours=[mauve]"], "mauve"),
    (["train", "dataset.normal=[1]", "dataset.anomalous=[5]"], "give one of them"),
    (["train", "dataset=mnist", "exposure=none"], "exposure"),
    (["train", "dataset=mnist", "detector=dsvdd", "exposure=none"], "stage=detector"),
    (["train", "fit.learning_rate=nan"], "fit.learning_rate must be a finite number"),
    (["train", "detector.learning_rate=inf"], "detector.learning_rate must be a finite number"),
    (["train", "fit.cycle=-inf"], "fit.cycle must be a finite number"),
    (["explain", "run=latest", "false_alarm_rate=nan"], "false_alarm_rate must be a finite number"),
    (["explain", "run=latest", "images=[a.png]", "box=[0,0,1,nan]"], "box[3] must be a finite number"),
    (["train", "detector=[bce,hsc]"], "give one detector"),
    (["train", "dataset=[mnist,cifar10]"], "give one dataset"),
    (["evaluate", "run=x", "metric=null"], "metric=null: name metrics"),
    (["evaluate", "run=x", "metric.oracle=x"], "metric.oracle must be a group of values, got 'x'"),
    (["train", "-m", "seed=interval(0,1)"], "an interval needs a sweeper"),
    (["train", "-m", "seed=range(0,5,0)"], "must not be zero"),
    (["train", "-m", "seed=range(0,1000000000)"], "a sweep runs 1 to 10,000 values of a key"),
    (["train", "-m", "detector=" + "bce," * 60 + "nosuch"], "no detector 'nosuch'"),
    (["train", "detector._target_=cfexplain.detectors.base.ScoringSpec"], "is what a detector is made of"),
    (["train", "runtime.num_threads=1000000"], "num_threads must lie between 1 and 4096"),
    (["train", "hydra=1"], "hydra"),
    (["train", "--cfg", "job", "--resolve", "encoder.width=${nosuch}"], "nosuch"),
    (["train", "--config-name=nosuch"], "config-name"),
    (["train", "run_dir="], "run_dir is empty"),
    (["train", "output_root=' '"], "output_root is empty"),
    (["explain", "run="], "run is empty"),
    (["explain", "run=latest", "images=['']"], "images[0] is empty"),
    (["train", "dataset=folder", "dataset.root="], "dataset.root is empty"),
    (["explain", "run=x", "images=[part (1).png,b.png]"], "\"images=['part (1).png','b.png']\""),
    (["explain"], "run"),
    (["explain", "run=latest", "dataset=mnist"], "explain takes dataset from its run"),
    (["explain", "run=latest", "dataset.root=moved"], "if the images have moved, give data_root=moved"),
    (["explain", "run=latest", "detector.steps=3"], "explain takes detector from its run"),
]


@pytest.mark.parametrize(("args", "words"), MISTAKES, ids=[" ".join(args) for args, _ in MISTAKES])
def test_a_config_mistake_is_one_line_in_time_and_leaves_nothing(cfexplain_without, tmp_path, args, words):
    done = cfexplain_without("torch")(*args)
    assert done.code == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_value_far_behind_in_a_sweep_is_found_before_the_first_run(cfexplain, tmp_path):
    done = cfexplain("train", "-m", "detector=bce,hsc", "detector.steps=" + ",".join(map(str, range(40, -1, -1))))
    assert done.code == 2 and done.stderr.count("\n") == 1 and "detector.steps must be > 0, got 0" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: asking for it is no mistake")
def test_a_network_that_fits_in_no_memory_is_one_line(cfexplain):
    done = cfexplain("train", *TINY, "generator.width=100000000", "dry_run=true")
    assert done.code == 1 and done.stderr.count("\n") == 1 and "out of memory" in done.stderr


def test_the_result_does_not_depend_on_who_listens(tmp_path):
    words = [sys.executable, "-m", "cfexplain", "train", *TINY, "dry_run=true"]
    shown = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], **shown)
    assert (done.returncode, done.stderr) == (0, "")
    shown["env"] |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "dumb"}
    done = subprocess.run(words, stdout=subprocess.PIPE, **shown)
    assert (done.returncode, done.stderr) == (0, "") and "train" in done.stdout


def test_a_missing_gpu_is_said(cfexplain):
    done = cfexplain("train", "device=cuda")
    assert done.code == 2
    assert "device=" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_missing_run_is_said_with_the_command_that_makes_one(cfexplain):
    done = cfexplain("explain", "run=outputs/nowhere")
    assert done.code == 3
    assert "cfexplain train" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_missing_data_folder_is_said(cfexplain):
    done = cfexplain("train", "dataset=mnist", "dataset.root=nowhere")
    assert done.code == 3
    assert "nowhere" in done.stderr and "dataset.download=true" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("content", [gzip.compress(b"\0\0\x08\x03\0\0\0\x09")[:-6], b"not a gz at all", b""],
                         ids=["truncated", "garbage", "empty"])
def test_a_damaged_idx_file_is_named(cfexplain, tmp_path, content):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(content)
    done = cfexplain("train", "dataset=mnist", "dataset.root=.", "exposure=letters")
    assert done.code == 3
    assert "ubyte.gz" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def planned(done) -> str:
    assert done.code == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("folder (not made): ")]
    return line.removeprefix("folder (not made): ")


@pytest.mark.slow
def test_paths_are_taken_as_they_are_typed(cfexplain, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dry = ["train", *TINY, "dry_run=true"]
    for name in ("2026_11_28", "1.10", "1e5", "true"):
        assert planned(cfexplain(*dry, f"run_dir={name}")) == name
    assert planned(cfexplain(*dry, "run_dir='~/out'")) == str(tmp_path / "home/out")
    assert planned(cfexplain(*dry, "output_root='~/out'")).startswith(str(tmp_path / "home/out/train"))
    done = cfexplain("train", "dataset=folder", "dataset.root=2024_05_01", "dry_run=true")
    assert done.code == 3 and "2024_05_01 is not there" in done.stderr
    done = cfexplain("evaluate", "run=2024_05_01", "dry_run=true")
    assert done.code == 3 and "no run at 2024_05_01" in done.stderr
    done = cfexplain("train", "dataset=folder", "dataset.root=x", "seed=1_0", "detector.learning_rate=1e-3", "--cfg",
                     "job")
    assert "\nseed: 10\n" in done.stdout and "learning_rate: 0.001" in done.stdout  # numbers stay numbers


@pytest.mark.parametrize("text", ["seed=0\nseed=1", "seed=0\nseed=1\n", "seed=0\r\nseed=1\r\n"])
def test_an_array_has_a_job_for_each_line(tmp_path, text):
    """With a program in the place of sbatch's job that says what it was called with."""
    (tmp_path / "cells.txt").write_text(text, newline="")
    script = ROOT / "scripts" / "slurm_array.sbatch"
    (counted,) = set(re.findall(r"--array=1-(\$\(.*?\))", script.read_text() + (ROOT / "docs/slurm.md").read_text()))
    shell = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shell(["bash", "-c", f"echo {counted}"]).stdout == "2\n"
    environment = {**os.environ, "CFEXPLAIN": "echo", "SLURM_ARRAY_TASK_ID": "2"}
    said = shell(["bash", str(script), "cells.txt", "sweep", "fit.steps=3"], env=environment).stdout
    assert said == "train fit.steps=3 seed=1 run_dir=sweep/2\n"
