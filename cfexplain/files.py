"""Files that a script may read at any moment: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import types
import typing
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TextIO

from cfexplain.errors import DataError

SCHEMA_VERSION = 1
MAX_WEIGHTS_BYTES = 4 * 2**30
MAX_GROWTH_BYTES = 64 * 2**20  # by unpacking code; torch packs no weights
MAX_JSON_BYTES = 64 * 2**20
PARTIAL = ".cfexplain-partial"
LEFTOVER = re.compile(rf"\..+-[0-9a-f]{{8}}{re.escape(PARTIAL)}")
MAX_NAME_BYTES = 120  # of a name made of an id, well below the 255 of file systems
PLAIN_ID = re.compile(r"(?:[a-z0-9-]+/)*[a-z0-9-]+(?:\.png)?")


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to be written bit by bit that takes the place of `path` at the end, or of nothing after an error.

    The file so far is kept as `previous` where that is given. The content is on the disk before the name is.
    """
    # Not tempfile's, which only its owner may read: a group on a cluster could not.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def printable(path: str | Path) -> str:
    """A path that may go into tables and logs: bytes that are no UTF-8 are written in hex."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def system_reason(error: OSError) -> str:
    """The file and what the system said of it, in one line."""
    return f"{printable(str(error.filename or ''))[:200]}: {error.strerror or error}"


def file_name(image_id: str, shown: str | None = None) -> str:
    """The name, without ending, of a file about the image: another one for each id, short enough, and readable.

    shown: the part of the id that is read; all of it where it is not given. What is left out or replaced is told apart
    by ten hex digits of the whole id; a plain id of small letters needs none, and has _ for its slashes.
    """
    if shown in (None, image_id) and PLAIN_ID.fullmatch(image_id) and len(image_id) <= MAX_NAME_BYTES:
        name = image_id.removesuffix(".png").replace("/", "_")
        if not re.search(r"-[0-9a-f]{10}$", name):
            return name
    stem = re.sub(r"\.[A-Za-z]{3,5}$", "", image_id if shown is None else shown)
    letters = (char if char.isalnum() or char in "-." or unicodedata.category(char)[0] == "M" else "_" for char in stem)
    readable = re.sub("_+", "_", "".join(letters)).strip("._")
    cut = readable.encode("utf-8")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    return f"{cut}-{hashlib.sha256(image_id.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}".lstrip("-")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Temporary files of a process that was killed while it wrote `name`; call it while holding the folder's lock.

    Nothing else: the folder may be somebody's own, with hidden files in it.
    """
    for path in folder.glob(f".{name}{PARTIAL}"):
        if LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


class NoLocks(OSError):
    """A file system without locks, as that of some network disks."""


def open_locked(path: Path, wait: bool) -> TextIO:
    """The file, made where it is not there, and locked: the kernel drops the lock when it is closed or its holder dies.

    BlockingIOError where another process holds it and `wait` is false. A child that inherits the descriptor holds it
    too, which is why this is no library's lock: filelock hides the descriptor, and its release unlocks the child's too.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            raise
        raise NoLocks(error.errno, error.strerror) from error
    return file


def write_text(path: Path, text: str) -> None:
    """Replace the file at once: a reader sees the old text or the new one, never half of it."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps({"schema_version": SCHEMA_VERSION, **finite(values)}, indent=2) + "\n")


def regular(path: Path) -> Path:
    """The same, to be opened; OSError for a pipe, a device or a socket: it might have no end, or nobody to fill it."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder fails at once
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path


def grows(archive: zipfile.ZipFile) -> bool:
    """Whether it unpacks to far more than it has, as nothing that torch writes does."""
    return sum(member.file_size for member in archive.infolist()) > archive.fp.seek(0, 2) + MAX_GROWTH_BYTES


def weights_file(path: Path) -> Path:
    """The same, for torch.load(weights_only=True); DataError for one that would take more memory than weights do."""
    if (size := regular(path).stat().st_size) > MAX_WEIGHTS_BYTES:
        raise DataError(f"{path} has {size / 2**30:.1f} GB; weights of {MAX_WEIGHTS_BYTES >> 30} GB are read")
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if grows(archive):
            raise DataError(f"{path} unpacks to far more than its size, as no file of weights does; do not trust it")
    return path


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """nan and inf are no JSON: null stands for them."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def read_json(path: Path, kinds: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """DataError where the file is missing or is no JSON object, or a value is not of its kind: a type as annotated."""
    try:
        if regular(path).stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} is damaged: it has more than {MAX_JSON_BYTES >> 20} MB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no {path.name} in {path.parent}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged: it holds no object")
    check_kinds(path, values, kinds)
    return values


def check_kinds(path: Path, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """DataError where a value of the file, None where it is missing, is of another type than its annotation."""
    for key, kind in kinds.items():
        if not _fits(values.get(key), kind):
            raise DataError(f"{path} is damaged: {key} is {values.get(key)!r:.60}")


def _fits(value: Any, kind: Any) -> bool:
    inner = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    return isinstance(value, kind)


def append_json_line(path: Path, values: Mapping[str, Any]) -> None:
    """On disk when it returns: a checkpoint that is saved later must not outlive this line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(values)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines; a last line that a killed process left half-written is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; delete it and run the same command again") from error


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(finite(row)) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a row, columns in the order of the first row's keys."""
    with writing_csv(path) as write:
        write(rows)


@contextmanager
def writing_csv(path: Path) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    """Gives a function that writes further rows, as write_csv does; the file is there when all are written."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, fieldnames=[], lineterminator="\n")

        def write(rows: Iterable[Mapping[str, Any]]) -> None:
            for row in rows:
                if not writer.fieldnames:
                    writer.fieldnames = list(row)
                    writer.writeheader()
                writer.writerow(row)

        yield write
        text.flush()
        text.detach()
