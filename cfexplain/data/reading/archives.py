"""A folder of images may come as a .zip: it is unpacked once, into the cache, under the hash of its bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from cfexplain.data.reading.cache import locked
from cfexplain.data.reading.image_files import find_image_files, opened_image, TooLarge
from cfexplain.errors import DataError, reason_of
from cfexplain.files import regular

MAX_GROWTH, SMALL = 100, 64 * 2**20  # times its size, and bytes that need no second look
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)  # RuntimeError: encrypted or unknown


def unpacked(path: Path, cache_dir: str) -> Path:
    """A folder as it is; for a .zip its content in <cache_dir>/unpacked/<hash>.

    Of two jobs at once the second waits and takes what the first unpacked. What a killed job left is removed.
    """
    path = path.expanduser()
    if os.path.isdir(path):  # which, unlike Path.is_dir, is False where nobody may look
        return path
    if not os.path.exists(path):
        kind = "a broken link" if os.path.islink(path) else "not there, or may not be read"
        raise DataError(f"{path} is {kind}. Set root to a folder of images or a .zip of one.")
    if path.suffix.lower() != ".zip":
        raise DataError(f"{path} is neither a folder nor a .zip. Unpack it and set root to the folder.")
    try:
        with regular(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}).") from error
    folder = Path(cache_dir).expanduser() / "unpacked" / digest
    if not _is_unpacked(folder):
        with locked(folder.with_suffix(".lock")):
            if not _is_unpacked(folder):
                shutil.rmtree(folder, ignore_errors=True)
                _unpack(path, folder)
    return folder


def _is_unpacked(folder: Path) -> bool:
    """Not so by an earlier version, which took the backslashes of some Windows tools for parts of names."""
    return folder.is_dir() and not any("\\" in name for name in os.listdir(folder))


def _unpack(path: Path, folder: Path) -> None:
    """Into a folder beside `folder`, renamed when it is whole."""
    partial = folder.with_suffix(".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                member.filename = member.filename.replace("\\", "/")  # of some Windows tools
                _check_member(path, member)
            # Before a disk is filled: a member never unpacks to more than the size it declares.
            _check_sizes(path, archive)
            size, free = sum(member.file_size for member in archive.infolist()), shutil.disk_usage(folder.parent).free
            if size > free:
                gigabytes = f"{size / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB left"
                raise DataError(f"{path} unpacks to {gigabytes}. Set cache_dir elsewhere.")
            partial.mkdir()
            archive.extractall(partial, archive.infolist())
        for picture in find_image_files(partial):  # such a one is to be found before it is kept
            try:
                with opened_image(picture):
                    pass
            except TooLarge as error:
                raise DataError(f"{path}: {str(error).replace(f'{partial}/', '')}") from error
            except DataError:
                pass  # damaged: said, or left out and counted, when it is read
        os.rename(partial, folder)
    except DAMAGED as error:
        reason = reason_of(error)
        raise DataError(f"{path} is damaged or locked by a password ({reason}). Get it again, or unpack it.") from error
    except OSError as error:
        reason = f"cannot unpack {path} into {folder.parent} ({error.strerror or error})"
        raise DataError(f"{reason}. Set cache_dir elsewhere.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Pictures are packed already: what grows much more is no folder of them."""
    for member in archive.infolist():
        if member.file_size > MAX_GROWTH * member.compress_size + SMALL:
            size = f"{member.file_size / 2**20:.0f} MB of {member.compress_size / 2**20:.1f}"
            raise DataError(f"{path} holds {member.filename!r}, which unpacks to {size} MB. Do not trust it.")
    members = archive.infolist()
    size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if size > MAX_GROWTH * packed + SMALL or packed > path.stat().st_size:
        raise DataError(f"{path} unpacks to {size / 1e9:.1f} GB of {path.stat().st_size / 1e9:.3f}. Do not trust it.")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    """Nothing may land, or point, outside the folder it is unpacked into."""
    name = PurePosixPath(member.filename)
    is_drive = len(name.parts) > 0 and name.parts[0].endswith(":")
    if name.is_absolute() or ".." in name.parts or is_drive:
        raise DataError(f"{path} holds {member.filename!r}, which lies outside the archive. Do not trust it.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{path} holds a link, {member.filename!r}. Pack the files themselves.")
