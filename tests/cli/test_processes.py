"""Training in several processes: one folder, one voice, and an end with a reason whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cfexplain.engine.distributed import torchrun_rank
from cfexplain.engine.launch import reason_of_ends
from tests.conftest import ROOT, TINY

# Runs in one and in two processes can be compared without noise, of which each process draws its own, and at rates at
# which rounding is not amplified.
MORE = ["fit.steps=20", "fit.log_every_steps=1", "fit.checkpoint_every_steps=3", "fit.learning_rate=1e-5",
        "fit.discriminator_learning_rate=1e-5", "detector.learning_rate=1e-5", "fit.score_noise=0",
        "fit.concept_noise=0", "runtime.precision=float32"]
ENDLESS = ["fit.steps=100000"]
TWO = "runtime.processes=2"
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def launched(place: Path, cache: Path, *args: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """A training in the folder `place`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "cfexplain", "train", *TINY, *MORE, *args], cwd=place, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, session_cache) -> Path:
    """The run of one process."""
    place = tmp_path_factory.mktemp("one")
    _, errors = launched(place, session_cache, "run_dir=run").communicate(timeout=300)
    assert errors == ""
    return place / "run"


@pytest.fixture
def start(tmp_path, session_cache):
    """Start a training in tmp_path; every process is gone at the end, the ranks too."""
    started = []

    def begin(*args: str, **launcher) -> subprocess.Popen:
        started.append(launched(tmp_path, session_cache, *args, **launcher))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # of a torchrun, its workers too; our ranks end with their starter
        process.communicate()


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"never said {beginning!r}: {process.stderr.read()}")


def ranks_of(starter: int) -> dict[int, int]:
    """Process ids of a run's ranks, by their number."""
    command = ["ps", "-o", "pid=", "--ppid", str(starter)]
    found = {}
    for pid in map(int, subprocess.run(command, capture_output=True, text=True).stdout.split()):
        words = dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)
        if "RANK" in words:
            found[int(words["RANK"])] = pid
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def history_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def last_step(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["learner"]["steps_done"]


def check_close(one: Path, other: Path) -> None:
    """The same ticks, with losses as near as float32 lets them be: Adam amplifies rounding; seen: 3e-4."""
    histories = history_of(one), history_of(other)
    assert len(histories[0]) == 1 + 20
    for first, second in zip(*histories, strict=True):
        assert second.pop("stage") == first.pop("stage")
        assert second == pytest.approx(first, rel=1e-3, abs=1e-3), first
    assert (one / "split.csv").read_bytes() == (other / "split.csv").read_bytes()


@pytest.mark.slow
def test_two_processes_write_the_folder_of_one(start, whole, tmp_path):
    output, errors = start("run_dir=two", TWO).communicate(timeout=300)
    assert errors == "" and output.count("images: ") == 1 and output.count("[generator] step 20/20") == 1
    check_close(whole, tmp_path / "two")
    names = [{path.relative_to(run) for path in run.rglob("*")} for run in (whole, tmp_path / "two")]
    assert names[0] == names[1]
    record = record_of(tmp_path / "two")
    assert (record["status"], record["processes"]) == ("done", 2) and record_of(whole)["processes"] == 1
    assert {"data", "detector", "generator", "total"} <= set(record["timings_seconds"])
    assert record["peak_memory_mb"] > 100  # rank 0's


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_ends_the_run_which_one_process_continues(start, whole, tmp_path, number):
    process = start("run_dir=run", TWO)
    wait_for(process, "images: ")
    ranks = ranks_of(process.pid)
    assert sorted(ranks) == [0, 1]
    wait_for(process, "[generator] step 7/")
    if number == 0:
        os.kill(ranks[1], signal.SIGSTOP)  # it hangs, as one does that waits for a peer on a GPU
    os.kill(ranks[number], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"cfexplain: rank {number} of 2 was killed by SIGKILL") and "run_dir=run" in line
    assert output.splitlines()[-3].startswith("failed in ")
    assert not any(map(is_running, ranks.values()))
    record = record_of(tmp_path / "run")
    assert (record["status"], record["exit_code"]) == ("failed", 1)
    assert last_step(tmp_path / "run") >= 6  # the last good checkpoint

    if number == 1:
        assert start("run_dir=run").wait(timeout=300) == 0  # in one process
        check_close(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at"), [("SIGTERM", "[generator] step 2/"), ("SIGUSR1", "images: ")])
def test_a_signal_to_the_starter_stops_all_ranks_after_the_same_step(start, tmp_path, name, at):
    process = start("run_dir=run", TWO, *ENDLESS)
    wait_for(process, at)
    ranks = ranks_of(process.pid)
    process.send_signal(getattr(signal, name))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert record_of(tmp_path / "run")["status"] == "interrupted" and "Traceback" not in errors
    assert output.splitlines()[-1].startswith("to continue: cfexplain train ")
    if at.startswith("[generator]"):
        step = int(errors.split("after step ")[1].split()[0])
        assert f"stopped by {name} after step {step} of the generator" in errors
        assert last_step(tmp_path / "run") == step == history_of(tmp_path / "run")[-1]["step"]
    assert not any(map(is_running, ranks.values()))


@pytest.mark.slow
def test_the_ranks_end_when_the_starter_is_killed(start, monkeypatch, tmp_path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    process = start("run_dir=run", TWO, *ENDLESS)
    wait_for(process, "[generator] step 2/")
    ranks = ranks_of(process.pid)
    process.kill()
    ends = time.monotonic() + 30
    while (left := [pid for pid in ranks.values() if is_running(pid)]) and time.monotonic() < ends:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(ranks) == 2 and not left
    assert not list((tmp_path / "tmp").glob("cfexplain-*"))  # where they met


@pytest.mark.slow
def test_what_rank_0_finds_wrong_is_said_once(start, tmp_path):
    """Rank 0 alone meets this one: the other ranks wait for it and must not stay."""
    process = start("run_dir=run", TWO, "stage=generator")
    output, errors = process.communicate(timeout=120)
    (line,) = errors.splitlines()
    assert "stage=generator needs run/checkpoints/detector.pt" in line and process.returncode == 2
    assert record_of(tmp_path / "run")["exit_code"] == 2


@pytest.mark.slow
def test_torchrun_gives_one_folder_and_passes_a_stop_on(start, whole, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    process = start(launcher=torchrun)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (run,) = (tmp_path / "outputs" / "train").glob("*/*")
    assert record_of(run)["processes"] == 2 and output.count("[generator] step 20/20") == 1
    check_close(whole, run)

    process = start("run_dir=stopped", *ENDLESS, launcher=torchrun)
    wait_for(process, "[generator] step 2/")
    process.terminate()
    process.communicate(timeout=120)
    assert record_of(tmp_path / "stopped")["status"] == "interrupted"
    assert last_step(tmp_path / "stopped") == history_of(tmp_path / "stopped")[-1]["step"]


def test_torchruns_environment_is_read_whole_or_not_at_all():
    place = torchrun_rank({**TORCHRUN, "RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert (place.rank, place.size, place.local_size) == (1, 2, 2)
    assert torchrun_rank({**TORCHRUN, "WORLD_SIZE": "1"}) is None
    assert torchrun_rank({"RANK": "1", "WORLD_SIZE": "2"}) is None  # some clusters set these alone


@pytest.mark.parametrize(("args", "environment", "message"), [
    (["train", "runtime.processes=0"], {}, "runtime.processes must lie between 1 and 4096, got 0"),
    (["train", "runtime.processes=3"], {},
     "detector.batch_size=128 cannot be shared by 3 processes: take a multiple of 3"),
    (["train", TWO, "fit.batch_size=12"], {},
     "fit.batch_size=12 cannot be shared by 2 processes: take a multiple of 8"),
    (["explain", "run=x", TWO], {}, "explain is the work of one process: leave runtime.processes and torchrun out; "
                                    "divide the images instead: shard=1/2"),
    (["evaluate", "run=x"], TORCHRUN, "evaluate is the work of one process"),
    (["train", "-m", "seed=0,1"], TORCHRUN, "-m under torchrun: leave torchrun out and add runtime.processes="),
    (["train", "runtime.processes=4"], TORCHRUN, "torchrun started 2 processes: leave runtime.processes=4 out"),
    (["train", "fit.batch_size=12"], TORCHRUN, "fit.batch_size=12 cannot be shared by 2 processes"),
])
def test_what_cannot_be_done_in_several_processes_is_said_at_once(
    cfexplain_without, monkeypatch, tmp_path, args, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = cfexplain_without("torch")(*args)
    assert done.code == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("kinds", "codes", "passed_on", "reason", "message"), [
    (["FitError", "FitError"], [1, 1], None, "RankFailed", "FitError of 0"),  # as one process would say it
    (["PeerLost", "ValueError"], [1, 1], None, "RankFailed", "rank 1: ValueError of 1"),
    (["", "ValueError"], [-9, 1], None, "RankFailed", "rank 1: ValueError of 1"),  # rank 0 hung and was killed
    (["", "ValueError"], [-15, 1], None, "RankFailed", "rank 1: ValueError of 1"),  # it had not started yet
    (["PeerLost", ""], [1, -9], None, "RankFailed", "rank 1 of 2 was killed by SIGKILL (out of memory?)"),
    (["", ""], [-9, -11], None, "RankFailed", "rank 1 of 2 was killed by SIGSEGV"),  # rank 0 hung and was killed
    (["Interrupted", "Interrupted"], [75, 75], None, "Interrupted", "Interrupted of 0"),  # a signal to the ranks
    (["", ""], None, "SIGUSR1", "StopRequested", "SIGUSR1"),  # they had not started yet
    (["PeerLost", "StopRequested"], None, "SIGTERM", "StopRequested", "SIGTERM"),
    (["DiskFull", "PeerLost"], None, "SIGTERM", "RankFailed", "DiskFull of 0"),  # while it saved
    (["BrokenPipeError", "PeerLost"], [75, 1], None, "BrokenPipeError", ""),
])
def test_the_reason_is_the_first_cause(kinds, codes, passed_on, reason, message):
    """codes: as torch's launcher gives them; of a stop that it passed on it gives none. Rank 1 ends first."""
    noted = {rank: {"kind": kind, "message": f"{kind} of {rank}", "exit_code": 3}
             for rank, kind in enumerate(kinds) if kind}
    failures = {rank: SimpleNamespace(exitcode=code, timestamp=100 - rank) for rank, code in enumerate(codes or [])}
    error = reason_of_ends(noted, failures, passed_on, 2, Path("run"))
    assert type(error).__name__ == reason and str(error).startswith(message)
    assert reason != "RankFailed" or error.exit_code == (3 if "of 2" not in message else 1)
