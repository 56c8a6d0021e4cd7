"""Two processes never hold one folder, and a dead one holds none."""

import signal
import subprocess
import sys

import pytest

from cfexplain.errors import ConfigError
from cfexplain.runs.folder import hold, let_go
from tests.conftest import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from cfexplain.errors import ConfigError
from cfexplain.runs.folder import claim_run_folder
sys.stdin.readline()
try:
    claim_run_folder(Path(sys.argv[1]))
except ConfigError as error:
    print("refused", flush=True)
else:
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_one_of_several_that_start_at_once_gets_the_folder_and_a_dead_one_gives_it_back(tmp_path):
    folder = tmp_path / "run"
    processes = [holder(folder) for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n"), process.stdin.flush()
    said = [process.stdout.readline().strip() for process in processes]
    assert sorted(said) == ["held", "refused", "refused", "refused"]
    winner = processes[said.index("held")]
    with pytest.raises(ConfigError, match=f"run is being written by process {winner.pid} on .*; give another run_dir"):
        hold(folder)
    winner.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait(timeout=10)
    hold(folder)
    let_go(folder)


def test_a_folder_that_was_let_go_is_free(tmp_path):
    hold(tmp_path)
    hold(tmp_path)  # a process that holds it may go on
    process = holder(tmp_path)
    assert process.communicate("go\n", timeout=20)[0] == "refused\n"
    let_go(tmp_path)
    process = holder(tmp_path)
    process.stdin.write("go\n"), process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
