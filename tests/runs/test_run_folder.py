"""A run folder is never shared, has a harmless name, and its record is whole at every moment."""

import json
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cfexplain.errors import DataError, DiskFull
from cfexplain.runs import folder as run_folder
from cfexplain.files import read_json, replacing, write_json
from cfexplain.runs.folder import claim_run_folder, make_run_folder, RunFolder, safe_name, stamped_name
from cfexplain.runs.lookup import find_run, point_latest


def test_stamp_is_utc_and_sorts_by_time():
    name = stamped_name(datetime(2026, 11, 24, 23, 30, 0, tzinfo=UTC))
    assert re.fullmatch(r"20261124T233000Z-[0-9a-f]{6}", name)
    assert name < stamped_name(datetime(2026, 11, 24, 23, 30, 1, tzinfo=UTC))


def test_names_hold_nothing_that_a_shell_or_hydra_reads():
    assert safe_name("MNIST-[8, 9]:a=b,c/../d e") == "mnist-_8_9_a_b_c_.._d_e"
    assert safe_name("../..") == "run"


def test_equal_stamps_give_different_folders(tmp_path, monkeypatch):
    names = iter(["same", "same", "same", "other"])
    monkeypatch.setattr(run_folder, "stamped_name", lambda: next(names))
    assert [make_run_folder(tmp_path).name for _ in range(2)] == ["same", "other"]


def test_parallel_runs_never_share_a_folder(tmp_path):
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(make_run_folder(tmp_path / "a" / "b"))) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 32


def test_a_continued_run_keeps_its_warnings_and_says_how_each_attempt_ended(tmp_path):
    for status in ("running", "interrupted", "done"):  # the first was killed: it never wrote its end
        run = RunFolder(tmp_path)
        run.begin("train", [], "")
        run.update(status=status, warnings=[*run.record["warnings"], f"from {status}"])
    record = read_json(tmp_path / "run.json")
    assert [attempt["status"] for attempt in record["attempts"]] == ["killed", "interrupted"]
    assert record["warnings"] == ["from running", "from interrupted", "from done"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".hydra").mkdir()
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "run.json") as file:
        name = Path(file.name).name  # as it is called
        raise KeyboardInterrupt
    left = (tmp_path / name, tmp_path / "checkpoints" / name.replace("run.json", "last.pt"))
    own = (".config.json-backup", ".notes.2026-11", ".notes.txt-20261124", ".a.b-c.cfexplain-partial")
    kept = (tmp_path / ".lock", tmp_path / "checkpoints" / "last.pt", tmp_path / ".hydra" / "config.yaml",
            *(tmp_path / name for name in own))
    for path in (*left, *kept):
        path.write_text("x")
    assert re.fullmatch(r"\.run\.json-[0-9a-f]{8}\.cfexplain-partial", name)
    RunFolder(tmp_path).begin("train", [], "")
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_a_disk_that_is_too_small_is_an_error_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "MIN_FREE_MB", 2.0**40)
    for make in (make_run_folder, claim_run_folder):
        with pytest.raises(DiskFull, match="MB left, and this run needs about"):
            make(tmp_path / "a")


def test_latest_names_the_newest_of_each_command(tmp_path):
    for command, name in (("train", "a"), ("explain", "b"), ("train", "c")):
        point_latest(tmp_path, command, tmp_path / command / "set" / name)
    lines = (tmp_path / "latest.txt").read_text().splitlines()
    assert lines == [f"explain {tmp_path}/explain/set/b", f"train {tmp_path}/train/set/c"]


def finished_run(root: Path, command: str, name: str, parents: tuple[Path, ...] = ()) -> Path:
    folder = root / command / "set" / name
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.begin(command, [], "")
    run.write_parents(list(parents))
    point_latest(root, command, folder)
    return folder


def test_latest_for_evaluate_is_the_explanation_of_the_newest_model(tmp_path):
    first = finished_run(tmp_path, "train", "a")
    explained = finished_run(tmp_path, "explain", "b", parents=(first,))
    assert find_run("latest", tmp_path, ("explain", "train")) == explained
    newer = finished_run(tmp_path, "train", "c")
    assert find_run("latest", tmp_path, ("explain", "train")) == newer


def test_latest_survives_moving_the_outputs(tmp_path):
    model = finished_run(tmp_path / "outputs", "train", "a")
    finished_run(tmp_path / "outputs", "explain", "b", parents=(model,))
    (tmp_path / "outputs").rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert find_run("latest", moved, ("train",)) == moved / "train" / "set" / "a"
    # it still knows that b explains a
    assert find_run("latest", moved, ("explain", "train")) == moved / "explain" / "set" / "b"


def test_a_run_of_the_wrong_command_is_refused(tmp_path):
    folder = finished_run(tmp_path, "evaluate", "a")
    with pytest.raises(DataError, match="run of 'evaluate', wanted one of train"):
        find_run(str(folder), tmp_path, ("train",))
    with pytest.raises(DataError, match="train one: cfexplain train"):
        find_run(str(tmp_path / "nothing"), tmp_path, ("train",))


def test_a_damaged_record_is_a_data_error(tmp_path):
    (tmp_path / "run.json").write_text('{"status": ')
    with pytest.raises(DataError, match="damaged"):
        find_run(str(tmp_path), tmp_path, ("train",))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    write_json(tmp_path / "metrics.json", {"a": 1.0})
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"a": object()})
    assert read_json(tmp_path / "metrics.json") == {"schema_version": 1, "a": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_json_files_hold_json_even_for_nan(tmp_path):
    write_json(tmp_path / "metrics.json", {"a": float("nan"), "b": float("inf")})
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["a"] is None
