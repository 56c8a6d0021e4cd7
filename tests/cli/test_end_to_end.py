"""The three commands on a tiny set: the files are there, agree with one another, and repeat."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from cfexplain.metrics.alpha import Alpha
from cfexplain.metrics.auroc import Auroc
from cfexplain.metrics.distance import Distance
from cfexplain.metrics.oracle import Oracle
from cfexplain.metrics.validity import Validity
from cfexplain.reporting.tables import metric_table
from tests.conftest import TINY

METRICS = "metric=[auroc,validity,distance,alpha,oracle]"


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def train(cfexplain, folder: str, *more: str):
    done = cfexplain("train", *TINY, f"run_dir={folder}", *more)
    assert done.code == 0, done.stderr
    return done


def check_split(file: Path, said: str) -> None:
    """Each image of the counts line has one row."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    counted = Counter((row["role"], row["label"]) for row in rows)
    assert counted == {
        ("train", "0"): 216, ("held_out", "0"): 24, ("exposure", "1"): 200, ("test", "0"): 40, ("test", "1"): 40,
    }
    assert "train 216, held out 24, exposure 200, test normal 40, test anomalous 40" in said
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:  # the names agree with the labels: red, or a 1
        if row["class"]:
            colour, shape = row["class"].split()
            assert (colour == "red" or shape == "1") == (row["label"] == "0"), row
    assert all(row["class"] for row in rows if row["role"] != "exposure")


@pytest.mark.slow
def test_train_explain_evaluate(cfexplain, tmp_path):
    said = train(cfexplain, "t", "+reported.cf_auroc=0.123").stdout
    check_split(tmp_path / "t" / "split.csv", said)
    assert cfexplain("explain", "run=t", "run_dir=x").code == 0
    done = cfexplain("evaluate", "run=x", "run_dir=e", METRICS, "metric.oracle.num_steps=20")
    assert done.code == 0, done.stderr

    for name in ("run.json", "config.yaml", "cfexplain.log", "history.jsonl", "metrics.json", "checkpoints/last.pt",
                 "checkpoints/detector.pt", "checkpoints/generator.pt", "images/data_preview.png",
                 "images/counterfactuals-000004.png", "images/counterfactuals.png"):
        assert (tmp_path / "t" / name).stat().st_size > 0, name
    for name in ("samples.csv", "report.html", "images/counterfactuals.png", "images/differences.png"):
        assert (tmp_path / "x" / name).stat().st_size > 0, name

    ticks = [json.loads(line) for line in (tmp_path / "t" / "history.jsonl").read_text().splitlines()]
    assert [tick["step"] for tick in ticks if tick["stage"] == "generator"] == [2, 4, 6]
    assert {"adversarial", "score", "reconstruction", "concept", "matching", "pull", "diversity", "overlap"} <= set(
        ticks[-1]
    ) | set(ticks[-1].get("values", {}))
    record = read(tmp_path / "t" / "run.json")
    assert (record["status"], record["exit_code"]) == ("done", 0)

    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["cf_auroc"]]
    assert "0.123" in line and "0.123" in (tmp_path / "e" / "report.html").read_text()
    assert any("second hand" in note for note in read(tmp_path / "e" / "run.json")["warnings"])

    metrics = read(tmp_path / "e" / "metrics.json")
    with (tmp_path / "x" / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 * 2  # 40 test anomalies, two concepts
    valid = [float(row["logit_after"]) <= float(row["threshold"]) for row in rows]
    assert metrics["validity"] == pytest.approx(sum(valid) / len(valid), abs=1e-9)
    mean_l1 = sum(float(row["l1_distance"]) for row in rows) / len(rows)
    assert metrics["l1_distance"] == pytest.approx(mean_l1, abs=1e-4)  # the csv is rounded
    assert metrics["detector_auroc"] == pytest.approx(read(tmp_path / "t" / "metrics.json")["detector_auroc"], abs=1e-6)
    assert f"{metrics['cf_auroc']:.3f}" in done.stdout
    explained = Auroc.meanings | Validity.meanings | Distance.meanings | Alpha.meanings | Oracle.meanings
    for key, value, *_, meaning in metric_table(metrics, explained).rows:
        assert meaning, key
        assert key in done.stdout and value in done.stdout


@pytest.mark.slow
def test_same_seed_same_metrics_other_seed_other_metrics_and_config_alone_repeats(cfexplain, tmp_path):
    def numbers(folder: str) -> dict:
        done = cfexplain("evaluate", f"run={folder}", f"run_dir={folder}-e", METRICS, "metric.oracle.num_steps=20")
        assert done.code == 0, done.stderr
        return read(tmp_path / f"{folder}-e" / "metrics.json")

    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(cfexplain, folder, f"seed={seed}")
    assert cfexplain("train", "--from", "a/config.yaml", "run_dir=d").code == 0
    first = numbers("a")
    assert numbers("b") == first
    assert numbers("d") == first
    assert numbers("c") != first


@pytest.mark.slow
def test_damaged_checkpoint_and_contradiction(cfexplain, tmp_path):
    train(cfexplain, "t")
    again = cfexplain("train", *TINY, "run_dir=t", "fit.steps=8")
    assert again.code == 2 and "fit.steps" in again.stderr
    path = tmp_path / "t" / "checkpoints" / "generator.pt"
    path.write_bytes(path.read_bytes()[:1000])
    done = cfexplain("explain", "run=t")
    assert done.code == 3
    assert "generator.pt" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_dry_run_counts_and_makes_nothing(cfexplain, tmp_path):
    done = cfexplain("train", *TINY, "dry_run=true")
    assert done.code == 0, done.stderr
    assert "train 216, held out 24" in done.stdout and "parameters" in done.stdout
    assert not (tmp_path / "outputs").exists()
