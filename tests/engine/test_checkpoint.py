"""Checkpoints: whole or not at all, and never code."""

import pickle

import pytest
import torch

from cfexplain.engine import checkpoint
from cfexplain.errors import DataError


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_what_was_saved_is_loaded(tmp_path):
    network = torch.nn.Linear(2, 2)
    checkpoint.save(tmp_path / "a.pt", {"network": network.state_dict(), "step": 3})
    values = checkpoint.load(tmp_path / "a.pt", "train again")
    other = torch.nn.Linear(2, 2)
    checkpoint.restore(other, values, "network", tmp_path / "a.pt", "train again")
    assert values["step"] == 3 and torch.equal(other.weight, network.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_failed_save_leaves_the_old_file_whole(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"step": 1})
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        checkpoint.save(tmp_path / "a.pt", {"step": lambda: 2})
    assert checkpoint.load(tmp_path / "a.pt", "")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


DAMAGED = {"empty": b"", "text": b"garbage", "pickle": pickle.dumps([1])}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(DataError, match="a.pt.*train again"):
        checkpoint.load(tmp_path / "a.pt", "train again")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"schema_version": 1, "trap": Trap(tmp_path / "sprung")}, tmp_path / "a.pt")
    with pytest.raises(DataError):
        checkpoint.load(tmp_path / "a.pt", "train again")
    assert not (tmp_path / "sprung").exists()


def test_a_network_of_another_size_is_refused(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"network": torch.nn.Linear(2, 2).state_dict()})
    with pytest.raises(DataError, match="does not fit"):
        values = checkpoint.load(tmp_path / "a.pt", "")
        checkpoint.restore(torch.nn.Linear(3, 2), values, "network", tmp_path / "a.pt", "")
