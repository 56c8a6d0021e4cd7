"""A user's mistake: one line that says what and what to type, the right exit code, no folder, and soon."""

import gzip

import pytest
import torch

CONFIG_SECONDS = 2.0  # the promise; torch alone takes about as long to load
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
    (["explain"], "run"),
    (["explain", "run=latest", "dataset=mnist"], "explain takes dataset from its run"),
    (["explain", "run=latest", "detector.steps=3"], "explain takes detector from its run"),
]


@pytest.mark.parametrize(("args", "words"), MISTAKES, ids=[" ".join(args) for args, _ in MISTAKES])
def test_a_config_mistake_is_one_line_in_time_and_leaves_nothing(cfexplain, tmp_path, args, words):
    done = cfexplain(*args)
    assert done.code == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert done.cpu_seconds < CONFIG_SECONDS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: asking for it is no mistake")
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
