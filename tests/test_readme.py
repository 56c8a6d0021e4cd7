"""Every `cfexplain` command of the README is a command: it composes and its values are in range."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES = re.findall(r"^    (cfexplain .*)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES]
COMPOSED = [args for args in COMMANDS if "--from" not in args]  # that one needs a run; tests/cli repeats one


def test_the_three_commands_are_shown():
    assert {args[0] for args in COMMANDS} == {"train", "explain", "evaluate"}


@pytest.mark.parametrize("args", COMPOSED, ids=" ".join)
def test_it_composes(cfexplain, tmp_path, args):
    done = cfexplain(*args, "--cfg", "job")
    assert done.code == 0, done.stderr
    assert "output_root: outputs" in done.stdout and list(tmp_path.iterdir()) == []
