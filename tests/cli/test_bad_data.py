"""Bad data through the command line: exit code 3, one line on stderr that names the file, nothing trained."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain import config
from cfexplain.cli import main
from cfexplain.data.own_images import find_images
from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.idx import read_idx_images
from cfexplain.data.reading.image_files import read_image
from cfexplain.data.recorded_split import read_split
from cfexplain.engine import checkpoint
from cfexplain.errors import DataError
from cfexplain.files import read_json
from tests.conftest import ROOT

SIDE = 16
FOLDER = ["dataset=folder", f"dataset.image_size={SIDE}", "exposure=confetti", "encoder=conv", "runtime=cpu"]
Damage = Callable[[Path], object]


@pytest.fixture
def parts(tmp_path, monkeypatch, session_cache) -> Path:
    """20 normal images to train on, 4 and 4 to test on, with masks."""
    monkeypatch.setenv("CFEXPLAIN_CACHE", str(session_cache))
    monkeypatch.chdir(tmp_path)
    rng, root = np.random.default_rng(0), tmp_path / "parts"
    for name, count in (("train/good", 20), ("test/good", 4), ("test/dent", 4), ("ground_truth/dent", 4)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
            mask = np.full((SIDE, SIDE), 255, dtype=np.uint8)
            is_mask = name.startswith("ground_truth")
            file = f"{index:03d}_mask.png" if is_mask else f"{index:03d}.png"
            Image.fromarray(mask if is_mask else pixels).save(root / name / file)
    return root


def truncated_jpeg(root: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(root / "whole.jpg")
    (root / "train/good/cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:800])
    (root / "whole.jpg").unlink()


def keep_one(root: Path) -> None:
    for path in sorted((root / "train/good").iterdir())[1:]:
        path.unlink()


def empty_class(root: Path) -> None:
    for path in (root / "test/dent").iterdir():
        path.unlink()


CASES: dict[str, tuple[Damage, str]] = {
    "truncated jpeg": (truncated_jpeg, "cut.jpg is damaged or cut short"),
    "text as png": (lambda root: (root / "train/good/text.png").write_text("no image"), "text.png is no image"),
    "a pipe": (lambda root: os.mkfifo(root / "train/good/pipe.png"), "it is no regular file"),
    "a device": (lambda root: (root / "train/good/zero.png").symlink_to("/dev/zero"), "it is no regular file"),
    "1x1": (lambda root: Image.new("RGB", (1, 1)).save(root / "train/good/dot.png"), "dot.png is 1x1"),
    "20000x20000": (
        lambda root: Image.new("1", (20_000, 20_000)).save(root / "train/good/huge.png"), "huge.png is too large"
    ),
    "empty class folder": (empty_class, "no images"),
    "missing mask": (lambda root: (root / "ground_truth/dent/001_mask.png").unlink(), "001.png has no mask"),
    "mask of another size": (
        lambda root: Image.new("L", (SIDE, 9)).save(root / "ground_truth/dent/001_mask.png"), "001_mask.png is 16x9"
    ),
    "broken link": (lambda root: (root / "train/good/link.png").symlink_to(root / "gone"), "link.png is a broken link"),
    "too few": (keep_one, "too few normal images to hold some out"),
    "no root": (lambda root: root.rename(root.with_name("elsewhere")), "parts is not there"),
}


def refused(capsys, *args: str) -> str:
    assert main(["train", *args, "dry_run=true"]) == 3
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_3(name, parts, capsys):
    assert main(["train", *FOLDER, "dataset.root=parts", "dry_run=true"]) == 0  # else any complaint would do
    capsys.readouterr()
    damage, words = CASES[name]
    damage(parts)
    error = refused(capsys, *FOLDER, "dataset.root=parts", "dataset.max_unreadable_fraction=0")
    assert words in error and ("parts" in error)


OTHERS = {
    b"\0\0\0\x18ftypheic": "a HEIC picture", b"\0\0\0\x20ftypavif": "an AVIF picture", b"GIF89a": "a GIF",
    b"\0\0\0\x0cjP  \r\n": "a JPEG 2000", b"version https://git-lfs.x": "a pointer of Git LFS",
    b"<!DOCTYPE html>": "a web page",
}


@pytest.mark.parametrize(("start", "kind"), OTHERS.items(), ids=OTHERS.values())
def test_what_is_no_picture_of_its_ending_is_called_what_it_is(start, kind, tmp_path):
    (tmp_path / "a.jpg").write_bytes(start + bytes(100))
    with pytest.raises(DataError, match=f"a.jpg is {kind}"):
        read_image(tmp_path / "a.jpg", (3, SIDE, SIDE))


def png_with(pixels: bytes, name: bytes, content: bytes, crc: int | None = None) -> bytes:
    """The file with a chunk more, behind its header."""
    crc = zlib.crc32(name + content) if crc is None else crc
    return pixels[:33] + len(content).to_bytes(4, "big") + name + content + crc.to_bytes(4, "big") + pixels[33:]


def test_sound_pixels_are_read_whatever_is_written_beside_them(parts, capsys):
    sound = (parts / "train/good/000.png").read_bytes()
    large = b"k\0\0" + zlib.compress(bytes(80 << 20))
    for index, chunk in enumerate([(b"zTXt", large), (b"iCCP", large), (b"iCCP", b"k\0\0junk"), (b"eXIf", b"junk"),
                                   (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff junk"), (b"tEXt", b"k\0hello", 0)]):
        (parts / f"train/good/a{index}.png").write_bytes(png_with(sound, *chunk))
    Image.open(parts / "train/good/000.png").save(parts / "b.jpg")
    jpeg = (parts / "b.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff junk"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (parts / "train/good/b.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    words = [*FOLDER, "dataset.root=parts", "dataset.max_unreadable_fraction=0", "dry_run=true"]
    assert main(["train", *words]) == 0
    assert "train 24, held out 3" in capsys.readouterr().out
    damaged = bytearray(png_with(sound, b"tEXt", b"k\0hello"))
    damaged[damaged.index(b"IDAT") + 4] ^= 1  # of the pixels
    (parts / "train/good/c.png").write_bytes(damaged)
    assert "c.png is damaged" in refused(capsys, *words[:-1])


def test_a_list_may_be_written_by_any_editor_and_a_name_may_have_brackets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p[0].png", "p0.png", "a/é.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIDE, SIDE)).save(name)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        Path("a/list.txt").write_bytes("é.png\r\n".encode(encoding))
        assert find_images(["a/list.txt"]) == ["a/é.png"], encoding
    assert find_images(["p[0].png"]) == ["p[0].png"] and find_images(["p[0-9].png"]) == ["p0.png"]
    assert find_images(["a/*"]) == ["a/é.png"]  # a list that nobody named is none


def test_among_many_good_ones_a_damaged_file_is_left_out_counted_and_named(parts, cfexplain, tmp_path):
    truncated_jpeg(parts)
    sizes = ["detector.steps=2", "detector.batch_size=8", "encoder.width=4", "stage=detector", "detector=dsvdd"]
    done = cfexplain("train", *FOLDER, *sizes, "dataset.root=parts", "dataset.max_unreadable_fraction=0.1", "run_dir=t")
    assert done.code in (0, 1), done.stderr  # two steps on noise may end in a collapse alarm
    said = done.stdout + (tmp_path / "t/cfexplain.log").read_text()
    assert "1 of 29 images" in said and "cut.jpg" in said
    assert "train 18, held out 2" in done.stdout


@pytest.mark.parametrize(
    ("name", "read"),
    [("run.json", read_json), ("config.yaml", config.read), ("last.pt", lambda path: checkpoint.load(path, "again")),
     ("images-idx3-ubyte.gz", read_idx_images), ("images.txt", lambda path: find_images([str(path)])),
     ("split.csv", read_split), ("parts.zip", lambda path: unpacked(path, str(path.parent)))],
)
def test_a_pipe_that_nobody_fills_is_not_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)


@pytest.mark.slow
def test_the_limit_of_a_picture_s_pixels_is_the_user_s(parts, cfexplain, monkeypatch):
    Image.new("L", (1200, 1000)).save(parts / "train/good/large.png")
    words = ["train", *FOLDER, "dataset.root=parts", "dataset.max_unreadable_fraction=0", "dry_run=true"]
    for limit, code, said in (("1", 3, "CFEXPLAIN_MAX_MEGAPIXELS"), ("2", 0, ""), ("many", 2, "got 'many'")):
        monkeypatch.setenv("CFEXPLAIN_MAX_MEGAPIXELS", limit)
        done = cfexplain(*words)
        assert done.code == code and said in done.stderr and done.stderr.count("\n") == (code > 0), done.stderr


def test_a_zip_that_leads_outside(parts, capsys, tmp_path):
    with zipfile.ZipFile("outside.zip", "w") as archive:
        archive.writestr("../evil.png", b"")
    assert "../evil.png" in refused(capsys, *FOLDER, "dataset.root=outside.zip")
    assert not (tmp_path.parent / "evil.png").exists()


def test_no_permission(parts):
    """In a process that becomes nobody, since root may read everything; by then it has loaded its modules."""
    (parts / "train/good/003.png").chmod(0o400)
    for folder in parts.parents:
        if "pytest-" in str(folder) and folder.owner() == Path.home().owner():
            folder.chmod(0o755)
    (parts.parent / "cache").mkdir()
    (parts.parent / "cache").chmod(0o777)
    code = (
        "import os, sys\nfrom cfexplain.cli import main\n"
        f"args = ['train', *{FOLDER!r}, 'dataset.root=parts', 'dataset.max_unreadable_fraction=0', 'dry_run=true']\n"
        "assert main([*args, 'dataset.image_size=8']) == 0\n"
        "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "else: os.chmod('parts/train/good/003.png', 0)\n"
        "sys.exit(main([*args, 'cache_dir=cache']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=parts.parent, env=environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "no permission to read" in done.stderr and "003.png" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_cache_that_another_user_wrote(parts):
    """Read without leave to write where its files may be read; else that is said, and not that they are damaged."""
    for folder in parts.parents:
        if "pytest-" in str(folder) and folder.owner() == Path.home().owner():
            folder.chmod(0o755)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom cfexplain.cli import main\nos.umask(0o022)\n"
        f"args = ['train', *{FOLDER!r}, 'dataset.root=parts', 'cache_dir=cache', 'dry_run=true']\n"
        "assert main(args) == 0\nfiles = [file for file in Path('cache').rglob('*') if file.is_file()]\n"
        "others = [] if sys.argv[1] == 'readable' else files\n"
        "for file in others: file.chmod(0o600 if os.geteuid() == 0 else 0)\n"
        "for folder in [Path('cache'), *(file.parent for file in files)]: folder.chmod(0o555)\n"
        "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "sys.exit(main(args))"
    )
    for kind, exit_code in (("readable", 0), ("private", 3)):
        done = subprocess.run([sys.executable, "-c", code, kind], cwd=parts.parent, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
        assert done.returncode == exit_code, done.stderr
        assert "damaged" not in done.stdout + done.stderr
        for file in (parts.parent / "cache").rglob("*"):
            file.chmod(0o755)
    assert "no permission to read" in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("00001.ppm;32;32;0;0;31;31;1", "00009.ppm;32;32;0;0;31;31;1", "names 00009.ppm, which is not in"),
     (";31;31;1\n", ";31;31;43\n", "the class 43; classes are 0 to 42")],
)
def test_a_table_of_signs_with_a_missing_file_or_a_class_out_of_range(old, new, words, parts, capsys):
    base = Path("signs/gtsrb")
    for number in range(43):
        folder = base / f"GTSRB/Training/{number:05d}"
        folder.mkdir(parents=True)
        for track in range(3):
            Image.new("RGB", (32, 32), (number, track, 0)).save(folder / f"{track:05d}_00000.ppm")
    (base / "GTSRB/Final_Test/Images").mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number in range(4):
        Image.new("RGB", (32, 32), (number, 9, 9)).save(base / f"GTSRB/Final_Test/Images/{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;32;32;0;0;31;31;{min(number, 1)}")  # one anomaly, three normal ones
    table = base / "GT-final_test.csv"
    table.write_text("\n".join(lines) + "\n")
    signs = ["dataset=gtsrb", "dataset.root=signs", "dataset.normal=[1]", "exposure=confetti", "runtime=cpu"]
    assert main(["train", *signs, "dry_run=true"]) == 0
    capsys.readouterr()
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    assert words in refused(capsys, *signs)


def test_a_class_that_there_is_not_is_a_config_mistake(parts, capsys):
    assert main(["train", "dataset=cifar10", "dataset.normal=[10]", "dry_run=true"]) == 2
    error = capsys.readouterr().err
    assert "10" in error and len(error.strip().splitlines()) == 1
