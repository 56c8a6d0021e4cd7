"""Zips are unpacked once, whole, and never outside their folder."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from cfexplain.data.reading import archives
from cfexplain.data.reading.archives import unpacked
from cfexplain.errors import DataError


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


MEMBERS = {"a/b.txt": b"b" * 1000, "c.txt": b"c"}


def test_a_folder_is_itself_and_nothing_is_written(tmp_path, cache):
    assert unpacked(tmp_path, cache) == tmp_path
    assert not Path(cache).exists()


def test_a_zip_is_unpacked_once_by_content(tmp_path, cache, monkeypatch):
    folder = unpacked(make_zip(tmp_path / "x.zip", MEMBERS), cache)
    assert files_below(folder) == MEMBERS and folder.parent == tmp_path / "cache/unpacked"
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_unpack", lambda *_: pytest.fail("unpacked again"))
        (tmp_path / "x.zip").rename(tmp_path / "moved.ZIP")
        assert unpacked(tmp_path / "moved.ZIP", cache) == folder
    other = unpacked(make_zip(tmp_path / "moved.ZIP", {"d.txt": b"d"}), cache)
    assert other != folder and files_below(other) == {"d.txt": b"d"}


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_a_name_that_leads_outside_is_refused(tmp_path, cache, name):
    path = make_zip(tmp_path / "x.zip", {"good.txt": b"", name: b"evil"})
    with pytest.raises(DataError, match="outside the archive") as caught:
        unpacked(path, cache)
    assert "evil.txt" in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 3
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.txt", "good.txt")]


def test_backslashes_part_folders(tmp_path, cache):
    path = make_zip(tmp_path / "x.zip", {"parts\\a\\b.txt": b"b", "parts\\c.txt": b"c", "d/e.txt": b"e"})
    folder = unpacked(path, cache)
    assert files_below(folder) == {"parts/a/b.txt": b"b", "parts/c.txt": b"c", "d/e.txt": b"e"}
    (folder / "parts\\a\\b.txt").touch()  # as an earlier version left it
    assert files_below(unpacked(path, cache)) == {"parts/a/b.txt": b"b", "parts/c.txt": b"c", "d/e.txt": b"e"}


def test_a_link_is_refused(tmp_path, cache):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"a link, 'link\.png'"):
        unpacked(tmp_path / "x.zip", cache)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"<html>404</html>",
        lambda raw: raw[:45] + b"xx" + raw[47:],
    ],
)
def test_a_damaged_zip_is_named_and_leaves_nothing(tmp_path, cache, damage):
    path = make_zip(tmp_path / "x.zip", MEMBERS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.zip is damaged") as caught:
        unpacked(path, cache)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path / "cache").keys() <= {f"unpacked/{lock.name}" for lock in tmp_path.rglob("*.lock")}


def test_what_a_killed_job_left_is_not_used(tmp_path, cache):
    path = make_zip(tmp_path / "x.zip", MEMBERS)
    folder = unpacked(path, cache)
    partial = folder.with_suffix(".partial")
    folder.rename(partial)
    (partial / "c.txt").unlink()
    (partial / "stray.txt").write_text("half")
    assert files_below(unpacked(path, cache)) == MEMBERS and not partial.exists()


def test_more_than_the_disk_holds_is_refused_before_it_is_written(tmp_path, cache, monkeypatch):
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match="left. Set cache_dir"):
        unpacked(make_zip(tmp_path / "x.zip", MEMBERS), cache)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1001))
    assert files_below(unpacked(tmp_path / "x.zip", cache)) == MEMBERS


def test_what_is_no_zip(tmp_path, cache):
    with pytest.raises(DataError, match="nowhere is not there"):
        unpacked(tmp_path / "nowhere", cache)
    (tmp_path / "link.zip").symlink_to(tmp_path / "gone.zip")
    with pytest.raises(DataError, match=r"link\.zip is a broken link"):
        unpacked(tmp_path / "link.zip", cache)
    (tmp_path / "x.tar.xz").write_bytes(b"")
    with pytest.raises(DataError, match="neither a folder nor a .zip"):
        unpacked(tmp_path / "x.tar.xz", cache)
