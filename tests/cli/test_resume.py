"""A run that was stopped, killed or damaged ends, by the same command, with the bits of one that was not."""

import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TINY

pytestmark = pytest.mark.slow
MORE = ["detector.steps=100", "fit.steps=40", "fit.log_every_steps=1", "fit.image_every_steps=7",
        "fit.checkpoint_every_steps=5"]
COMMAND = [sys.executable, "-m", "cfexplain", "train", *TINY, *MORE]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, session_cache) -> Path:
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run([*COMMAND, f"run_dir={folder}"], env=environment(session_cache), capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def start(tmp_path, session_cache):
    """Start a run in tmp_path; every process is gone at the end."""
    processes = []

    def begin(*args: str) -> subprocess.Popen:
        processes.append(subprocess.Popen(
            [*COMMAND, *args], cwd=tmp_path, env=environment(session_cache), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    """Read what the run says up to such a line."""
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"never said {beginning!r}: {process.stderr.read()}")


def stopped(start, folder: Path, at: str = "[generator] step 12/") -> None:
    process = start(f"run_dir={folder}")
    wait_for(process, at)
    process.terminate()
    assert process.wait(timeout=300) == 75


def check_same(whole: Path, other: Path) -> None:
    for name in ("history.jsonl", "metrics.json", "split.csv"):
        assert (whole / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("detector.pt", "generator.pt", "last.pt"):
        one, two = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (whole, other))
        assert tensors(one).keys() == tensors(two).keys()
        assert all(torch.equal(value, tensors(two)[key]) for key, value in tensors(one).items()), name
    pictures = [{path.name: path.read_bytes() for path in (run / "images").iterdir()} for run in (whole, other)]
    assert len(pictures[0]) == 2 + 40 // 7 and pictures[0] == pictures[1]


def tensors(state, place: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {place: state}
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {name: tensor for key, value in pairs for name, tensor in tensors(value, f"{place}/{key}").items()}


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(("name", "at"), [
    ("SIGTERM", "[generator] step 6/"), ("SIGINT", "[generator] step 6/"), ("SIGUSR1", "[generator] step 6/"),
    ("SIGUSR2", "[generator] step 6/"), ("SIGTERM", "images: "), ("SIGTERM", "[detector] step 50/"),
])
def test_a_signal_stops_the_run_and_the_line_it_ends_with_continues_it(start, whole, tmp_path, session_cache, name, at):
    process = start("run_dir=stopped")
    wait_for(process, at)
    process.send_signal(getattr(signal, name))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors and len(errors.splitlines()) <= 1
    assert record_of(tmp_path / "stopped")["status"] == "interrupted"
    if at.startswith("[generator]"):
        assert f"stopped by {name} after step" in errors
        step = int(errors.split("after step ")[1].split()[0])
        values = torch.load(tmp_path / "stopped" / "checkpoints" / "last.pt", weights_only=True)
        assert values["learner"]["steps_done"] == step <= 15  # 5 is saved anyway
    last = output.splitlines()[-1]
    assert last.startswith("to continue: cfexplain train ")
    words = [sys.executable, "-m", *shlex.split(last.removeprefix("to continue: "))]
    done = subprocess.run(words, cwd=tmp_path, env=environment(session_cache), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_same(whole, tmp_path / "stopped")
    assert [attempt["status"] for attempt in record_of(tmp_path / "stopped")["attempts"]] == ["interrupted"]


def test_a_second_int_stops_at_once_and_the_run_still_continues(start, whole, tmp_path):
    process = start("run_dir=stopped")
    wait_for(process, "[generator] step 6/")
    process.send_signal(signal.SIGINT)
    time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 75
    assert start("run_dir=stopped").wait(timeout=300) == 0
    check_same(whole, tmp_path / "stopped")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_last_checkpoint_is_said_and_the_one_before_it_used(start, whole, tmp_path, damage):
    stopped(start, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 16
    last.write_bytes(content)
    process = start("run_dir=run")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (note,) = [line for line in output.splitlines() if line.startswith("note: ")]
    assert "last.pt was damaged; the run went on from the one before it, last-previous.pt: generator at step " in note
    assert note.removeprefix("note: ") in record_of(tmp_path / "run")["warnings"]
    check_same(whole, tmp_path / "run")


def test_explain_and_evaluate_are_repeated_with_the_same_result(whole, tmp_path, session_cache):
    def run(*words: str, stop_at: str | None = None, number: int = signal.SIGKILL) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "cfexplain", *words], cwd=tmp_path, env=environment(session_cache),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        if stop_at:
            wait_for(process, stop_at)
            process.send_signal(number)
        process.communicate(timeout=600)
        return process.returncode

    explain = ["explain", f"run={whole}", "runtime=cpu", "features.num_steps=2", "num_film_strips=1", "num_cards=2"]
    assert run(*explain, "run_dir=x", stop_at="explaining") == -signal.SIGKILL
    assert run(*explain, "run_dir=x") == run(*explain, "run_dir=y") == 0
    for name in ("samples.csv", "metrics.json", "images/counterfactuals.png"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes(), name

    evaluate = ["evaluate", f"run={whole}", "metric=[auroc,substitutability]", "runtime=cpu"]
    refit = "[refit 1 of the detector] step 50/"
    assert run(*evaluate, "run_dir=e", stop_at=refit, number=signal.SIGTERM) == 75
    assert record_of(tmp_path / "e")["status"] == "interrupted"
    assert run(*evaluate, "run_dir=e") == run(*evaluate, "run_dir=f") == 0
    for name in ("history.jsonl", "metrics.json", "images/counterfactuals.png"):
        assert (tmp_path / "e" / name).read_bytes() == (tmp_path / "f" / name).read_bytes(), name


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_checkpoints_that_cannot_be_read_end_the_run_with_what_to_type(start, whole, tmp_path):
    stopped(start, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    torch.save({"schema_version": 1, "learner": Trap(tmp_path / "sprung")}, checkpoints / "last.pt")
    (checkpoints / "last-previous.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    process = start("run_dir=run")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 3 and len(errors.splitlines()) == 1
    assert not (tmp_path / "sprung").exists()
    remedy = errors.split("start its training anew: ")[1].split(" and run")[0]
    subprocess.run(shlex.split(remedy), cwd=tmp_path, check=True)
    assert start("run_dir=run").wait(timeout=300) == 0
    check_same(whole, tmp_path / "run")


def test_of_two_processes_with_one_run_dir_one_runs(start, whole, tmp_path):
    processes = [start("run_dir=run") for _ in range(2)]
    ends = [process.communicate(timeout=600) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2]
    (errors,) = [errors for process, (_, errors) in zip(processes, ends, strict=True) if process.returncode == 2]
    assert len(errors.splitlines()) == 1 and "run_dir=run is being written by process" in errors
    check_same(whole, tmp_path / "run")


def test_runs_started_at_once_get_a_folder_each(start, tmp_path):
    short = ["stage=detector", "detector.steps=30"]  # with the later word for a key, the earlier one is void
    processes = [start(*short) for _ in range(8)]
    for process in processes:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
    folders = [path.parent for path in (tmp_path / "outputs").rglob("run.json")]
    assert len(folders) == 8
    for folder in folders:
        assert record_of(folder)["status"] == "done"
        assert (folder / "checkpoints" / "detector.pt").exists() and (folder / "metrics.json").exists()
        assert len((folder / "history.jsonl").read_text().splitlines()) == 1


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many MB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size_mb: int) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", disk]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"mounting a small tmpfs needs root: {done.stderr.strip()}")
        return disk

    yield mount
    subprocess.run(["umount", disk], capture_output=True)


def test_a_full_disk_costs_one_line_and_no_checkpoint(start, whole, small_disk):
    folder = small_disk(40) / "run"
    process = start(f"run_dir={folder}")
    wait_for(process, "[generator] step 6/")
    filler = folder.parent / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], capture_output=True)  # until there is no room
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1 and "no space left for" in errors
    filler.unlink()
    values = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert values["learner"]["steps_done"] % 5 == 0
    assert start(f"run_dir={folder}").wait(timeout=300) == 0
    check_same(whole, folder)


def test_a_disk_too_small_for_the_checkpoints_is_said_before_the_training(start, small_disk):
    folder = small_disk(9) / "run"
    process = start(f"run_dir={folder}", "generator.width=64")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and len(errors.splitlines()) == 1
    assert "MB left, and this run needs about" in errors
    assert not (folder / "history.jsonl").exists()


def test_killed_runs_end_with_the_same_bits(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kills.py", "--kills", "3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout and "all runs equal" in done.stdout
