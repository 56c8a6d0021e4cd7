"""Help, version and completion are quick and load neither torch nor, at the top, Hydra."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cfexplain.presets import presets

ROOT = Path(__file__).resolve().parents[2]


def test_help_is_quick_and_names_the_commands(cfexplain_without):
    done = cfexplain_without("torch", "hydra")("--help")
    assert done.code == 0
    assert all(name in done.stdout for name in ("train", "explain", "evaluate"))


@pytest.mark.parametrize("command", ["train", "explain", "evaluate", "doctor"])
def test_command_help_shows_examples_and_keys(cfexplain, command):
    done = cfexplain(command, "--help")
    assert done.code == 0, done.stderr
    assert f"cfexplain {command}" in done.stdout and "output_root" in done.stdout


def test_train_help_shows_its_own_groups(cfexplain):
    text = cfexplain("train", "--help").stdout
    assert "metric" not in text
    assert "detector: bce, dsvdd, external, gaussian, hsc" in text
    (datasets,) = [line for line in text.splitlines() if line.startswith("dataset: ")]
    assert {"cmnist", "glyphs", "mnist"} <= set(datasets.removeprefix("dataset: ").split(", "))


def test_train_help_stays_readable_and_says_how_to_list_the_presets(cfexplain):
    lines = cfexplain("train", "--help").stdout.splitlines()
    assert len(lines) < 150 and max(map(len, lines)) <= 130
    assert any("experiment=help" in line for line in lines)
    done = cfexplain("train", "experiment=help")
    assert done.code == 0 and done.stdout.splitlines() == list(presets())
    assert "experiment: bias-green-glyphs" in cfexplain("train", "experiment=bias-green-glyphs", "--help").stdout


def test_evaluate_help_lists_every_metric_in_lines_that_can_be_read(cfexplain):
    text = cfexplain("evaluate", "--help").stdout
    assert max(map(len, text.splitlines())) <= 130 and "dataset:" not in text
    groups = text.partition("Groups")[2].partition("Config")[0]
    metrics = sorted(file.stem for file in (ROOT / "conf" / "metric").glob("*.yaml"))
    assert groups.partition("metric: ")[2].partition("\nruntime: ")[0].replace("\n  ", " ").split(", ") == metrics


def test_config_is_shown_without_a_run(cfexplain, tmp_path):
    done = cfexplain("train", "--cfg", "job", "detector=hsc")
    assert done.code == 0 and "cfexplain.detectors.hsc.Hsc" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_info_needs_no_word(cfexplain):
    done = cfexplain("train", "--info")  # Hydra takes a word that follows it for its own
    assert done.code == 0 and "Defaults Tree" in done.stdout, done.stderr


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["train", "seeed=1"], ["train", "fit.steps=0"]])
def test_torch_is_not_loaded(argv, tmp_path):
    code = f"""
import sys, cfexplain.cli
try: cfexplain.cli.main({argv!r})
finally: assert 'torch' not in sys.modules, 'loaded'
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "loaded" not in done.stderr and done.returncode == 0, done.stderr


def test_completion_of_commands_and_groups(cfexplain, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "cfexplain ")
    assert cfexplain("-sc", "query=bash").stdout.split() == ["train", "explain", "evaluate", "doctor"]
    monkeypatch.setenv("COMP_LINE", "cfexplain train detector=")
    assert set(cfexplain("-sc", "query=bash").stdout.split()) == {
        "detector=bce", "detector=dsvdd", "detector=external", "detector=gaussian", "detector=hsc",
    }
    monkeypatch.setenv("COMP_LINE", "cfexplain train experiment=bias-green")
    assert set(cfexplain("-sc", "query=bash").stdout.split()) == {
        "experiment=bias-green-glyphs", "experiment=bias-green-cmnist",
    }
