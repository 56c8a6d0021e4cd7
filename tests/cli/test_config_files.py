"""A config file gives values: whatever it says, it runs nothing, writes nowhere, and is refused before it grows."""

from __future__ import annotations

import pickle
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from time import process_time

import pytest
import yaml

from cfexplain.cli import main
from tests.conftest import TINY

MARK = "mark"  # the file that would be there if a config had run code or chosen where to write


class Evil:
    def __reduce__(self):
        return Path.write_text, (Path(MARK), "unpickled")


@pytest.fixture(scope="module")
def shown() -> str:
    said = StringIO()
    with redirect_stdout(said):
        assert main(["train", "dataset=mnist", "dataset.root=nowhere", *TINY[4:], "--cfg", "job", "--resolve"]) == 0
    return said.getvalue()


@pytest.fixture
def saved(shown, inside) -> dict:
    """The config of a run whose data is missing: it starts, and ends with 3 before torch is needed."""
    Path("evil.pkl").write_bytes(pickle.dumps(Evil()))
    return yaml.safe_load(shown)


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path


def train_from(capsys, values: dict, *words: str) -> tuple[int, str]:
    Path("given.yaml").write_text(yaml.safe_dump(values))
    code = main(["train", "--from", "given.yaml", "run_dir=r", *words])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("settings", [
    {"callbacks": {"x": {"_target_": "torch.load", "f": "evil.pkl", "weights_only": False}}},
    {"callbacks": {"x": {"_target_": "numpy.load", "file": "evil.pkl", "allow_pickle": True}}},
    {"callbacks": {"x": {"_target_": "logging.FileHandler", "filename": MARK}}},
    {"job_logging": {"handlers": {"x": {"class": "logging.FileHandler", "filename": MARK}}}},
    {"hydra_logging": {"handlers": {"x": {"class": "logging.FileHandler", "filename": MARK}}}},
    {"output_subdir": f"../{MARK}"},
    {"job": {"chdir": True}, "searchpath": ["pkg://evil"]},
], ids=str)
def test_what_a_file_says_of_hydra_is_ignored_and_said(settings, saved, capsys):
    code, error = train_from(capsys, saved | {"hydra": settings})
    assert code == 3 and "says of hydra is ignored" in error and "nowhere" in error
    assert not Path(MARK).exists()
    assert Path("r/run.json").is_file() and Path("r/.hydra/config.yaml").is_file()


def test_what_lies_beside_a_file_is_not_read(saved, capsys):
    Path("beside.yaml").write_text(
        f"# @package hydra.callbacks.x\n_target_: logging.FileHandler\nfilename: {MARK}\n"
    )
    code, error = train_from(capsys, {"defaults": ["beside", "_self_"]} | saved)
    assert code == 2 and "lists defaults" in error and not Path(MARK).exists()


def test_a_file_does_not_allow_itself_custom_code(saved, capsys):
    Path("evil_module.py").write_text(f"open({MARK!r}, 'w').close()\n")
    saved["detector"]["_target_"] = "evil_module.Detector"
    code, error = train_from(capsys, saved | {"allow_custom_code": True})
    assert code == 2 and "add allow_custom_code=true" in error and not Path(MARK).exists()
    code, _ = train_from(capsys, saved, "allow_custom_code=true")  # typed, it is
    assert code == 2 and Path(MARK).exists()


@pytest.mark.parametrize("content", [
    f"# @package _global_\nhydra:\n  callbacks:\n    x: {{_target_: logging.FileHandler, filename: {MARK}}}\n",
    f"# @package hydra.callbacks.x\n_target_: logging.FileHandler\nfilename: {MARK}\n",
    f"# @package _global_\nhydra:\n  output_subdir: ../{MARK}\n",
    "# @package _global_\ndefaults:\n  - /detector/handler@hydra.callbacks.x\n",
    "# @package _global_\nallow_custom_code: true\n",
])
def test_files_of_config_dir_give_values_only(content, inside, capsys):
    Path("own/experiment").mkdir(parents=True)
    Path("own/detector").mkdir()
    Path("own/detector/handler.yaml").write_text(f"_target_: logging.FileHandler\nfilename: {MARK}\n")
    Path("own/experiment/good.yaml").write_text("# @package _global_\nseed: 7\n")
    Path("own/experiment/bad.yaml").write_text(content)
    words = ["train", "--config-dir", "own", "dataset=mnist", "dataset.root=nowhere", "run_dir=r"]
    assert main([*words, "-m", "experiment=good,bad"]) == 2
    assert "config file" in capsys.readouterr().err
    assert not Path(MARK).exists() and not Path("r").exists()


def test_values_of_config_dir_are_taken(inside):
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/good.yaml").write_text("# @package _global_\nseed: 7\n")
    assert main(["train", "--config-dir", "own", "experiment=good", "dataset=mnist", "dataset.root=nowhere",
                 "run_dir=r"]) == 3
    assert "seed: 7" in Path("r/config.yaml").read_text()


@pytest.mark.parametrize("words", [
    [f"hydra.output_subdir=../{MARK}"],
    [f"hydra.run.dir={MARK}"],
    [f"hydra.sweep.dir={MARK}", "-m"],
    [f"hydra.job_logging.handlers.file.filename={MARK}"],
    ["+hydra.callbacks.x._target_=logging.FileHandler", f"+hydra.callbacks.x.filename={MARK}"],
    ["hydra.searchpath=[own]"],
    ["hydra.mode=MULTIRUN"],
    ["hydra/job_logging=default"],
    ["hydra/launcher=../detector/bce", "-m"],
    ["hydra.launcher._target_=logging.FileHandler", "-m"],
    [f"hydra.launcher.submitit_folder={MARK}", "-m"],
    [f"hydra.sweeper.params={{hydra.output_subdir: ../{MARK}}}", "-m"],
    ["--config-name", "given"],
    ["--experimental-rerun", "evil.pkl"],
], ids=lambda words: words[0])
def test_hydras_own_settings_write_nowhere_else(words, inside, capsys):
    assert main(["train", "dataset=mnist", "dataset.root=nowhere", *words]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert not Path(MARK).exists() and not Path("outputs").exists() and not Path("multirun").exists()


def aliases() -> str:
    levels = [f"a{index}: &a{index} [{', '.join([f'*a{index - 1}'] * 10)}]" for index in range(1, 12)]
    return "\n".join(["a0: &a0 [1, 1]", *levels])


def references() -> str:
    return "\n".join(["a0: xxxxxxxx", *(f"a{index}: {f'${{a{index - 1}}}' * 10}" for index in range(1, 12))])


@pytest.mark.parametrize(("content", "words"), [
    (lambda: "a: 1\n" + "# long\n" * (50 * 2**20 // 7), "50 MB"),
    (aliases, "repeats itself"),
    (references, "references"),
    (lambda: "a: " + "[" * 100_000, "level"),
    (lambda: "a: &x " + "y" * 500_000 + "\nb: [" + "*x, " * 1000 + "1]", "repeats itself"),
], ids=["50 MB", "aliases", "references", "nested", "long text"])
def test_a_file_that_grows_is_refused_at_once(content, words, inside, capsys):
    Path("bomb.yaml").write_text(content())
    started = process_time()
    assert main(["train", "--from", "bomb.yaml", "run_dir=r"]) == 2
    assert process_time() - started < 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1, error
    Path("own").mkdir()
    Path("bomb.yaml").rename("own/train.yaml")
    assert main(["train", "--config-dir", "own", "dataset=mnist", "dataset.root=nowhere"]) == 2
    assert words in capsys.readouterr().err and not Path("r").exists()
