"""Checkpoints: whole or not at all, and never code."""

import copy
import os
import pickle
import random
import subprocess
import zipfile

import pytest
import torch

from cfexplain.engine import checkpoint
from cfexplain.errors import DataError, DiskFull


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
    trap = {"schema_version": 1, "trap": Trap(tmp_path / "sprung")}
    torch.save(trap, tmp_path / "a.pt")
    (tmp_path / "sealed.pt").write_bytes(checkpoint._sealed(trap))  # a right digest makes it no safer
    for name in ("a.pt", "sealed.pt"):
        with pytest.raises(DataError):
            checkpoint.load(tmp_path / name, "train again")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "sealed.pt", weights_only=False)  # it is a trap indeed
    assert (tmp_path / "sprung").exists()


def two_saves(folder) -> bytes:
    """Steps 1 and 2; the content of the newer file."""
    for step in (1, 2):
        checkpoint.save_last(folder, {"step": step, "weights": torch.full((50,), float(step))})
    return (folder / "last.pt").read_bytes()


def test_torch_itself_reads_a_sealed_file(tmp_path):
    two_saves(tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 2


def test_the_newest_is_loaded_and_the_one_before_it_kept(tmp_path):
    two_saves(tmp_path)
    found = checkpoint.load_last(tmp_path)
    assert (found.values["step"], found.damaged) == (2, None)
    assert checkpoint.load(tmp_path / "last-previous.pt", "")["step"] == 1


def test_any_flipped_bit_is_noticed_and_the_one_before_is_used(tmp_path):
    content, chance = two_saves(tmp_path), random.Random(0)
    previous = (tmp_path / "last-previous.pt").read_bytes()
    for _ in range(100):
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        (tmp_path / "last.pt").write_bytes(flipped)
        found = checkpoint.load_last(tmp_path)
        assert found.values["step"] == 1 and found.damaged.name == "last.pt", (place, bit)
        assert (tmp_path / "last-previous.pt").read_bytes() == previous


def test_a_file_from_before_there_were_digests_is_read(tmp_path):
    torch.save({"schema_version": 1, "step": 4}, tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt", "")["step"] == 4


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 0.9999])
def test_a_truncated_one_is_noticed_and_the_next_save_keeps_the_good_one(tmp_path, share):
    content = two_saves(tmp_path)
    (tmp_path / "last.pt").write_bytes(content[: int(len(content) * share)])
    assert checkpoint.load_last(tmp_path).values["step"] == 1
    checkpoint.save_last(tmp_path, {"step": 3})
    assert checkpoint.load(tmp_path / "last-previous.pt", "")["step"] == 1
    assert checkpoint.load_last(tmp_path).values["step"] == 3


def test_two_damaged_ones_are_an_error_that_says_what_to_type(tmp_path):
    two_saves(tmp_path)
    for name in ("last.pt", "last-previous.pt"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"both damaged.*rm -f .*last.pt .*last-previous.pt and run the same command"):
        checkpoint.load_last(tmp_path)


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path, monkeypatch):
    two_saves(tmp_path)
    real_replace = os.replace

    def killed_at_the_second(source, target):
        if target.name == "last.pt":
            raise SystemExit("killed")
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", killed_at_the_second)
    with pytest.raises(SystemExit):
        checkpoint.save_last(tmp_path, {"step": 3})
    found = checkpoint.load_last(tmp_path)
    assert (found.values["step"], found.damaged) == (2, None)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting a small tmpfs needs root: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk):
    checkpoint.save_last(small_disk, {"step": 1, "weights": torch.zeros(100_000)})  # 0.4 MB
    with pytest.raises(DiskFull, match="no space left for .*last.pt"):
        checkpoint.save_last(small_disk, {"step": 2, "weights": torch.zeros(200_000)})
    assert checkpoint.load_last(small_disk).values["step"] == 1
    assert [path.name for path in small_disk.iterdir()] == ["last.pt"]


def test_a_network_of_another_size_is_refused(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"network": torch.nn.Linear(2, 2).state_dict()})
    with pytest.raises(DataError, match="does not fit"):
        values = checkpoint.load(tmp_path / "a.pt", "")
        checkpoint.restore(torch.nn.Linear(3, 2), values, "network", tmp_path / "a.pt", "")


@pytest.mark.parametrize("kind", ["packed", "overlapping", "bytearray"])
def test_a_file_that_unpacks_to_more_than_its_size_is_refused_before_it_does(tmp_path, kind):
    path = tmp_path / "bomb.pt"
    torch.save({"schema_version": 1, "weights": torch.zeros(2**20)}, path)
    if kind == "bytearray":
        with zipfile.ZipFile(path, "w") as archive:  # bytearray(10**11), as a pickle of protocol 2
            archive.writestr("a/data.pkl", b"\x80\x02c__builtin__\nbytearray\n\x8a\x05" + (10**11).to_bytes(5, "little")
                             + b"\x85R.")
            archive.writestr("a/version", b"3\n")
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content, zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED)
            if kind == "overlapping":  # entries of one and the same content
                largest = max(archive.infolist(), key=lambda member: member.file_size)
                for index in range(3):
                    again = copy.copy(largest)
                    again.filename = f"{largest.filename}{index}"
                    archive.filelist.append(again)
                archive._didModify = True
    with pytest.raises(DataError, match="bomb.pt is damaged; train again"):
        checkpoint.load(path, "train again")
