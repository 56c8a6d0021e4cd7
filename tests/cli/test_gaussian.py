"""detector=gaussian on the command line: fitted at once, kept, explained, judged by its stand-in."""

import json

import pytest
import torch

from tests.conftest import TINY

OTHERS = [text for text in TINY if not text.startswith(("detector.", "encoder."))]
GAUSSIAN = [*OTHERS, "detector=gaussian", "encoder.weights=null", "encoder.layers=[1,2]",
            "detector.stand_in.steps=20", "detector.stand_in.batch_size=32"]


def detector_of(run):
    return torch.load(run / "checkpoints" / "detector.pt", weights_only=True)["detector"]


@pytest.mark.slow
def test_a_gaussian_from_fit_to_evaluation(cfexplain, tmp_path):
    planned = cfexplain("train", *GAUSSIAN, "dry_run=true")
    assert planned.code == 0, planned.stderr
    assert "Gaussian of 40 features of" in planned.stdout and "concept classifier: " in planned.stdout
    assert cfexplain("train", *GAUSSIAN, "run_dir=t", "stage=detector").code == 0
    done = cfexplain("train", *GAUSSIAN, "run_dir=t", "stage=generator")
    assert done.code == 0 and "detector taken from" in done.stdout, done.stderr
    assert cfexplain("explain", "run=t", "run_dir=x").code == 0
    done = cfexplain("evaluate", "run=x", "run_dir=e", "metric=[auroc,transfer]")
    assert done.code == 0, done.stderr
    metrics, trained = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in "et")
    assert metrics["detector_auroc"] == pytest.approx(trained["detector_auroc"], abs=1e-6)
    notes = " ".join(json.loads((tmp_path / "e" / "run.json").read_text())["warnings"])
    assert "detector=gaussian cannot be trained again; a detector=bce stands in" in notes


@pytest.mark.slow
def test_two_processes_have_the_same_gaussian(cfexplain, tmp_path):
    assert cfexplain("train", *GAUSSIAN, "run_dir=one", "stage=detector").code == 0
    done = cfexplain("train", *GAUSSIAN, "run_dir=two", "runtime.processes=2")
    assert done.code == 0, done.stderr
    one, two = detector_of(tmp_path / "one"), detector_of(tmp_path / "two")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert (tmp_path / "two" / "checkpoints" / "generator.pt").exists()


def test_an_encoder_without_feature_maps_is_one_line(cfexplain):
    done = cfexplain("train", *OTHERS, "detector=gaussian", "encoder=conv", "dry_run=true")
    assert done.code == 2 and "take encoder=lite0 or encoder=timm" in done.stderr
