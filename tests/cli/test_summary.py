"""A sweep of twelve cells: one fails, the table is right, and the same command again runs the failed one alone."""

import csv
import json
import statistics
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TINY

SWEEP = [
    "-m", "--config-dir", "own", "dataset=small_glyphs,parts", "detector=bce,hsc,dsvdd", "seed=0,1", "stage=detector",
    "exposure.limit=60", "encoder.width=4", "detector.steps=20", "detector.batch_size=16", "runtime=cpu",
    "run_dir=sweep",
]
NAMES = {"small_glyphs": ("glyphs", "red-1"), "parts": ("folder", "parts")}


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(sweep: Path, kind: str) -> list[dict[str, str]]:
    with (sweep / "summary.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["row"] == kind]


@pytest.fixture
def own_datasets(tmp_path) -> None:
    """A folder of 32 px images, grey normal ones and some with a white spot, and both datasets in a --config-dir."""
    root = tmp_path / "parts"
    for place, count in (("normal", 40), ("anomalous", 12)):
        (root / place).mkdir(parents=True)
        for index in range(count):
            image = Image.new("L", (32, 32), 90 + index)
            if place == "anomalous":
                image.paste(255, (index, 8, index + 9, 17))
            image.save(root / place / f"{index:02}.png")
    own = tmp_path / "own" / "dataset"
    own.mkdir(parents=True)
    letters = "override /exposure@_global_.exposure: letters"
    (own / "parts.yaml").write_text(f"defaults: [folder, _self_, {{{letters}}}]\nroot: parts\nimage_size: 32\n")
    (own / "small_glyphs.yaml").write_text(
        "defaults: [glyphs, _self_]\ntrain_size: 120\ntest_size: 40\nreference_size: 120\n"
    )


def times(sweep: Path) -> dict[str, int]:
    return {cell.name: (cell / "run.json").stat().st_mtime_ns for cell in sweep.iterdir() if cell.name.isdigit()}


@pytest.mark.slow
def test_twelve_cells_one_fails_and_runs_alone_again(cfexplain, tmp_path, own_datasets):
    sweep = tmp_path / "sweep"
    for folder in (sweep, sweep / "7"):  # begun, and killed before there was a record
        (folder / ".hydra").mkdir(parents=True)
        for name in (".lock", "cfexplain.log"):
            (folder / name).touch()
    (sweep / "7" / "images").write_text("where a folder must be")  # the cell fails while it runs
    done = cfexplain("train", *SWEEP)
    assert done.code == 1, done.stderr
    before = times(sweep)
    assert len(before) == 12
    records = {name: read(sweep / name / "run.json") for name in before}
    assert {name: record["status"] for name, record in records.items() if record["status"] != "done"} == {"7": "failed"}

    cells = {row["cell"]: row for row in rows_of(sweep, "cell")}
    places = [(dataset, detector, seed) for dataset in ("small_glyphs", "parts") for detector in ("bce", "hsc", "dsvdd")
              for seed in ("0", "1")]
    assert len(cells) == 12
    for number, (dataset, detector, seed) in enumerate(places):
        row = cells[str(number)]
        assert (row["dataset"], row["normal"], row["detector"], row["seed"]) == (*NAMES[dataset], detector, seed)
        if number == 7:
            assert (row["status"], row["detector_auroc"]) == ("failed", "") and "FileExistsError" in row["reason"]
            assert "Traceback" in (sweep / "7" / "cfexplain.log").read_text()
        else:
            auroc = read(sweep / str(number) / "metrics.json")["detector_auroc"]
            assert (row["status"], float(row["detector_auroc"])) == ("done", auroc)
            assert f"{auroc:.3f}" in done.stdout
    over_seeds = {(row["dataset"], row["detector"]): row for row in rows_of(sweep, "over seeds")}
    assert len(over_seeds) == 6
    pair = [float(cells[name]["detector_auroc"]) for name in ("0", "1")]
    assert float(over_seeds["glyphs", "bce"]["detector_auroc"]) == pytest.approx(sum(pair) / 2)
    assert float(over_seeds["glyphs", "bce"]["detector_auroc_std"]) == pytest.approx(abs(pair[0] - pair[1]) / 2 ** 0.5)
    broken = over_seeds["folder", "bce"]  # cells 6 and 7
    assert (broken["status"], broken["n"], broken["detector_auroc_std"]) == ("incomplete", "1", "")
    assert broken["detector_auroc"] == cells["6"]["detector_auroc"]
    assert "1 of 2" in (sweep / "summary.md").read_text() and "FileExistsError" in (sweep / "summary.tex").read_text()

    other = cfexplain("train", *SWEEP, "detector.learning_rate=0.1")
    assert other.code == 2 and "holds another sweep" in other.stderr

    (sweep / "7" / "images").unlink()
    again = cfexplain("train", *SWEEP)
    assert again.code == 0, again.stderr
    after = times(sweep)
    assert [name for name in after if after[name] != before[name]] == ["7"]
    summary = (sweep / "summary.json").read_text()
    assert "failed" not in summary

    for file in sweep.glob("summary.*"):
        file.unlink()
    assert cfexplain("evaluate", "runs=sweep").code == 0  # from the folder alone
    assert (sweep / "summary.json").read_text() == summary


@pytest.mark.slow
def test_a_sweep_is_explained_and_measured_cell_by_cell(cfexplain, tmp_path):
    """The three commands; run=<sweep folder> stands for its cells. One train run lacks a generator."""
    assert cfexplain("train", "-m", *TINY, "seed=0,1", "dataset.normal_colours=[red],[blue]", "run_dir=t").code == 0
    (tmp_path / "t" / "1" / "checkpoints" / "generator.pt").unlink()
    done = cfexplain("explain", "-m", "run=t", "runtime=cpu", "run_dir=x")
    assert done.code == 3 and "t/1 has no trained generator" in done.stderr
    assert cfexplain("evaluate", "-m", "run=x", "metric=[auroc]", "runtime=cpu", "run_dir=e").code == 3
    cells = rows_of(tmp_path / "e", "cell")
    assert [(row["normal"], row["seed"], row["status"]) for row in cells] == [
        ("red-1", "0", "done"), ("blue-1", "0", "failed"), ("red-1", "1", "done"), ("blue-1", "1", "done"),
    ]
    assert "t/1 has no trained generator" in cells[1]["reason"]
    for number in (0, 2, 3):
        metrics = read(tmp_path / "e" / str(number) / "metrics.json")
        assert float(cells[number]["cf_auroc"]) == metrics["cf_auroc"]
        assert float(cells[number]["validity"]) == read(tmp_path / "x" / str(number) / "metrics.json")["validity"]
    (over_normals,) = rows_of(tmp_path / "e", "over normal sets")
    means = {normal: statistics.fmean(float(row["cf_auroc"]) for row in cells
                                      if row["normal"] == normal and row["status"] == "done")
             for normal in ("red-1", "blue-1")}
    assert float(over_normals["cf_auroc"]) == pytest.approx(statistics.fmean(means.values()))
    assert float(over_normals["cf_auroc_std"]) == pytest.approx(statistics.stdev(means.values()))
    # all three folders together are the same four models
    assert cfexplain("evaluate", "runs=[t,x,e]", "run_dir=all").code == 0
    assert [row["cf_auroc"] for row in rows_of(tmp_path / "all", "cell")] == [row["cf_auroc"] for row in cells]
    # the two models that are trained again are explained again, the others are not
    before = times(tmp_path / "x")
    for number in (0, 1):
        (tmp_path / "t" / str(number) / "run.json").unlink()
    assert cfexplain("train", "-m", *TINY, "seed=0,1", "dataset.normal_colours=[red],[blue]", "run_dir=t").code == 0
    assert cfexplain("explain", "-m", "run=t", "runtime=cpu", "run_dir=x").code == 0
    after = times(tmp_path / "x")
    assert sorted(name for name in after if after[name] != before[name]) == ["0", "1"]
