"""Checkpoints: plain dicts of tensors and numbers, renamed into place, read with weights_only=True.

A SHA-256 of the content stands in the file itself, as the comment of the zip archive that torch writes: torch.load
still reads the file, and a flipped bit, which torch would not notice, is found before anything is unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfexplain.engine.loop import Learner
from cfexplain.errors import DataError, DiskFull
from cfexplain.files import regular, replacing
from cfexplain.lazy import nn, torch

SCHEMA_VERSION = 1
SEAL = b"sha256:"
SEAL_LENGTH = len(SEAL) + 64
ARCHIVE_END = 22  # bytes of a zip archive's last record, of which the last two count those of a comment behind it
LAST, PREVIOUS = "last.pt", "last-previous.pt"


@dataclass(frozen=True, kw_only=True)
class LastCheckpoint:
    """The newest readable checkpoint of a training; `damaged` names the one that had to be passed over."""

    path: Path
    values: dict[str, Any]
    damaged: Path | None


def save(path: Path, values: dict[str, Any], previous: Path | None = None) -> str:
    """Replace the file at once, whatever interrupts; the file so far is kept as `previous` where that is given.

    returns: the file's SHA-256.
    """
    content = _sealed({"schema_version": SCHEMA_VERSION, **values})
    try:
        with replacing(path, previous) as file:
            file.write(content)
        _sync_folder(path.parent)
        return hashlib.sha256(content).hexdigest()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = f"{len(content) / 2**20:.1f} MB"
            raise DiskFull(f"no space left for {path} ({size}); free some and run the same command again") from error
        raise


def load(path: Path, remedy: str, sha256: str | None = None) -> dict[str, Any]:
    """DataError where the file is missing, damaged or of another version; `remedy` says what to type.

    sha256: of the file that is wanted; another one is not read.
    """
    try:
        if sha256 is not None and _sha256(regular(path)) != sha256:
            raise DataError(f"{path} is not the file that this run wrote (run.json has its digest); {remedy}")
        content = _unsealed(regular(path).read_bytes())
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"no {path}; {remedy}") from error
    except PermissionError as error:
        raise DataError(f"no permission to read {path}") from error
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001: a damaged pickle can fail in any way
        raise DataError(f"{path} is damaged; {remedy}") from error
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path} is no checkpoint of this version of cfexplain; {remedy}")
    return values


def restore(module: nn.Module, values: dict[str, Any], name: str, path: Path, remedy: str) -> None:
    """Load one network's weights out of a checkpoint's values."""
    try:
        module.load_state_dict(values[name])
    except Exception as error:  # noqa: BLE001: values of any kind may stand there
        raise DataError(f"{path} does not fit this run's config ({name}); {remedy}") from error
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"{path} holds a number that is not finite ({name}: {key}); {remedy}")


def save_last(folder: Path, values: dict[str, Any]) -> None:
    """Everything needed to go on; the checkpoint before it stays beside it."""
    save(folder / LAST, values, previous=folder / PREVIOUS)


def load_last(folder: Path) -> LastCheckpoint | None:
    """The last checkpoint, or the one before it where the last one is damaged; None where there is none yet.

    A damaged one is removed once the previous one was read, so that the next save does not put it in that one's place.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists() and not previous.exists():
        return None
    remedy = f"start its training anew: rm -f {shlex.join(map(str, (last, previous)))} and run the same command again"
    if not last.exists():  # killed between the two renames of a save
        return LastCheckpoint(path=previous, values=load(previous, remedy), damaged=None)
    try:
        return LastCheckpoint(path=last, values=load(last, remedy), damaged=None)
    except DataError as error:
        if not previous.exists():
            raise
        try:
            values = load(previous, remedy)
        except DataError:
            raise DataError(f"{last} and {previous} are both damaged; {remedy}") from error
    last.unlink()
    return LastCheckpoint(path=previous, values=values, damaged=last)


def save_learner(learner: Learner, folder: Path) -> None:
    save_last(folder, {"stage": learner.stage, "learner": learner.state_dict()})


def resume(learner: Learner, folder: Path, remedy: str) -> LastCheckpoint | None:
    """Take the learner, and with it those of the other ranks, to where its stage's last checkpoint stands."""
    found = load_last(folder)
    if found is not None and found.values.get("stage", "generator") == learner.stage:
        try:
            learner.load_state_dict(found.values["learner"])
        except Exception as error:  # noqa: BLE001: values of any kind may stand there
            raise DataError(f"{found.path} does not fit this run's config; {remedy}") from error
    learner.ranks.shared(learner.state_dict() if learner.steps_done else None)
    return found


def resume_with_rank_0(learner: Learner) -> None:
    """`resume` for another rank, which reads nothing."""
    if (state := learner.ranks.shared(None)) is not None:
        learner.load_state_dict(state)


def _sealed(values: dict[str, Any]) -> memoryview:
    """The zip archive with its own digest as comment, whose length is the archive's last field."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    content = buffer.getbuffer()
    assert content[-2:] == b"\0\0", "torch.save wrote a zip archive with a comment"
    seal = SEAL + hashlib.sha256(content).hexdigest().encode()
    content.release()
    buffer.seek(-2, os.SEEK_END)
    buffer.write(len(seal).to_bytes(2, "little") + seal)
    return buffer.getbuffer()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unsealed(content: bytes) -> bytes:
    """The archive as torch wrote it; ValueError where it has changed. One that torch.save alone wrote is taken too."""
    _check_size(content)
    seal = content[-SEAL_LENGTH:]
    if not seal.startswith(SEAL):
        if content[-ARCHIVE_END:].startswith(b"PK\5\6") and content.endswith(b"\0\0"):
            return content
        raise ValueError("it ends neither with a digest nor like a zip archive")
    archive = content[: -SEAL_LENGTH - 2] + b"\0\0"
    if hashlib.sha256(archive).hexdigest().encode() != seal[len(SEAL):]:
        raise ValueError("the content does not match its digest")
    return archive


def _check_size(content: bytes) -> None:
    """ValueError where the archive would take more memory than its own size: torch packs nothing, a bomb does."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise ValueError("it unpacks to more than its size")
        if any(b"bytearray" in archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")):
            raise ValueError("it holds more than tensors and numbers")  # a bytearray is of any size that it names


def _sync_folder(folder: Path) -> None:
    """Make the renames last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
