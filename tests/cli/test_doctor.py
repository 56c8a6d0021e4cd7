"""cfexplain doctor: it says what is wrong and what to do, exits with 1 for a problem, and leaves nothing behind."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cfexplain.cli import main
from cfexplain.commands.doctor import read_options
from cfexplain.config import conf_dir
from cfexplain.health import data as health_data
from cfexplain.health.check import Check, Mark
from cfexplain.health.data import data_checks, weight_checks
from cfexplain.health.machine import (
    cpu_check, folder_check, package_check, python_check, run_check, torch_check
)
from cfexplain.data.reading.cifar import CIFAR10
from cfexplain.data.reading.idx import MNIST
from tests.conftest import ROOT



@pytest.fixture
def files_in():
    return lambda folder: sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def doctor(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **environment}
    return subprocess.run([sys.executable, "-m", "cfexplain", "doctor", *args], cwd=folder, env=environment,
                          capture_output=True, text=True)


@pytest.mark.slow
def test_a_sound_machine_has_no_problem_and_nothing_is_left_behind(cfexplain, tmp_path, monkeypatch, files_in):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = cfexplain("doctor", "output_root=out", "--json")
    assert done.code == 0, done.stdout
    assert files_in(tmp_path) == []
    said = json.loads(done.stdout)  # JSON alone
    assert said["status"] == "ok"
    marks = {check["name"]: check["mark"] for check in said["checks"]}
    assert marks["data glyphs"] == marks["ten-step run"] == marks["compiled operations"] == "ok"
    assert marks["data mnist"] == "note"
    (run,) = [check["found"] for check in said["checks"] if check["name"] == "ten-step run"]
    assert re.search(r"detector [1-9]\d* images/s, generator [1-9]\d* images/s", run)
    assert max(Counter(check["name"] for check in said["checks"]).values()) == 1
    assert all(check["remedy"] for check in said["checks"] if check["mark"] != "ok")
    assert all("\n" not in check["found"] + check["remedy"] for check in said["checks"])


@pytest.mark.slow
def test_a_torchvision_of_another_torch_is_a_problem_and_stops_the_rest(tmp_path, files_in):
    fake = tmp_path / "fake" / "torchvision"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    before = files_in(tmp_path)
    done = doctor(tmp_path, PYTHONPATH=f"{fake.parent}{os.pathsep}{ROOT}", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem compiled operations")]
    assert "torchvision::nms does not exist" in line and "pip install" in line
    assert done.stdout.splitlines()[-1].startswith("3 problems: compiled operations, torchmetrics, the rest")
    assert "ten-step run" not in done.stdout and "Traceback" not in done.stderr
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(("torch", "torchvision", "mark", "wanted"), [
    ("2.11.0", "0.26.0", Mark.ok, ""),
    ("2.14.1+cpu", "0.29.1+cpu", Mark.ok, ""),
    ("2.14.1", "0.28.0", Mark.problem, "torchvision==0.29"),
    ("2.11.0", "0.29.0", Mark.problem, "torchvision==0.26"),
    ("2.10.0", "0.25.0", Mark.problem, "--upgrade torch"),
    ("2.14.1", None, Mark.problem, "pip install torch torchvision"),
    (None, "0.29.0", Mark.problem, "pip install torch torchvision"),
])
def test_versions_that_belong_together(torch, torchvision, mark, wanted):
    check = torch_check(torch, torchvision)
    assert check.mark is mark and wanted in check.remedy


def test_an_old_python_and_a_missing_package_are_problems():
    assert python_check((3, 10), "3.10.4").mark is Mark.problem
    assert python_check((3, 11), "3.11.0").mark is Mark.ok
    check = package_check("no-such-package-of-ours")
    assert (check.mark, check.remedy) == (Mark.problem, "pip install no-such-package-of-ours")


def test_a_gpu_that_torch_does_not_see_is_noted():
    assert cpu_check(False, None).mark is Mark.ok
    assert "driver" in cpu_check(True, "13.0").remedy
    assert "CUDA build" in cpu_check(True, None).remedy


def test_a_folder_is_tried_and_left_as_it_was(tmp_path, files_in, monkeypatch):
    assert folder_check("output_root", tmp_path / "a" / "b").mark is Mark.ok
    assert files_in(tmp_path) == []
    (tmp_path / "file").write_text("")
    check = folder_check("cache_dir", tmp_path / "file" / "x")
    assert check.mark is Mark.problem and "cache_dir=" in check.remedy
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**8}))
    assert folder_check("output_root", tmp_path).mark is Mark.problem
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9}))
    assert folder_check("output_root", tmp_path).mark is Mark.note


def _by_name(checks) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_set_of_conf_with_a_root_is_looked_for_and_said_where_it_belongs(tmp_path, files_in):
    found = _by_name(data_checks(tmp_path / "nowhere", tmp_path / "cache"))
    texts = {(group, file.stem): file.read_text() for group in ("dataset", "exposure")
             for file in (conf_dir() / group).glob("*.yaml")}
    wanted = {f"{'data' if group == 'dataset' else group} {name}" for (group, name), text in texts.items()
              if "\nroot: data" in text}
    assert set(found) == wanted | {"data glyphs"} and len(wanted) >= 9
    for name in wanted:
        assert found[name].mark is Mark.note, name
        assert "nowhere" in found[name].remedy and "root" in found[name].remedy, name
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(("files", "sets"), [
    ([f"MNIST/raw/{file}.gz" for file in MNIST.files], {"data mnist", "data cmnist"}),
    ([f"MNIST/raw/{file}" for file in MNIST.files[:3]], set()),  # one is missing
    ([f"{CIFAR10.folder}/data_batch_1"], {"data cifar10"}),
    (["mvtec/screw/train/good/0.png"], {"data mvtec"}),
    (["mvtec_anomaly_detection/screw/train/good/0.png"], {"data mvtec"}),
    (["gtsrb-32.zip"], {"data gtsrb"}),
    (["omniglot-py/images_background/x"], {"exposure omniglot"}),
])
def test_sets_are_found_by_their_files(tmp_path, files, sets):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = _by_name(data_checks(tmp_path, tmp_path / "cache"))
    assert {name for name, check in found.items() if check.mark is Mark.ok} == sets | {"data glyphs"}


def test_signs_name_sets_that_exist():
    names = {file.stem for group in ("dataset", "exposure") for file in (conf_dir() / group).glob("*.yaml")}
    assert set(health_data.SIGNS) <= names


def test_weights_are_found_in_torchs_cache(tmp_path):
    none = _by_name(weight_checks(tmp_path))
    assert none["encoder weights"].mark is Mark.note and "resnet18-" in none["encoder weights"].remedy
    name = next(word for word in none["encoder weights"].remedy.split() if word.endswith(".pth"))
    (tmp_path / name).write_bytes(b"")
    assert _by_name(weight_checks(tmp_path))["encoder weights"].found.startswith("resnet18 in ")


@pytest.mark.slow
def test_a_run_that_fails_is_a_problem_with_its_reason(tmp_path):
    (tmp_path / "run").write_text("in the way")
    check = run_check(tmp_path)
    assert check.mark is Mark.problem and "exit code 2: run_dir=run cannot be made" in check.found


@pytest.mark.parametrize(("args", "words"), [
    (["rot=data"], "Did you mean root?"),
    (["-m"], "wanted key=value"),
    (["root"], "wanted key=value"),
    (["root="], "wanted key=value"),
])
def test_a_mistyped_option_is_one_line(args, words, capsys):
    assert main(["doctor", *args]) == 2
    said = capsys.readouterr()
    assert words in said.err and len(said.err.strip().splitlines()) == 1 and said.out == ""


def test_a_file_as_root_is_answered_with_the_command_that_checks_it(tmp_path, capsys):
    (tmp_path / "set.zip").write_bytes(b"")
    assert main(["doctor", f"root={tmp_path}/set.zip"]) == 2
    assert "dry_run=true" in capsys.readouterr().err


def test_the_defaults_are_those_of_the_other_commands(monkeypatch):
    import yaml

    values = yaml.safe_load((conf_dir() / "train.yaml").read_text())
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("CFEXPLAIN_CACHE", raising=False)
    assert str(read_options([])["output_root"]) == values["output_root"]
    assert str(read_options([])["cache_dir"]) == "/home/someone/.cache/cfexplain"
    assert values["cache_dir"] == "${oc.env:CFEXPLAIN_CACHE,${oc.env:HOME,.}/.cache/cfexplain}"
    monkeypatch.setenv("CFEXPLAIN_CACHE", "elsewhere")
    assert str(read_options([])["cache_dir"]) == "elsewhere"


def test_help_is_quick_and_names_the_options(cfexplain_without):
    done = cfexplain_without("torch", "hydra")("doctor", "--help")
    assert done.code == 0 and "output_root=" in done.stdout
