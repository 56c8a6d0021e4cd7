"""Small files that would take gigabytes: one line, before the memory is taken, and nothing left on the disk."""

from __future__ import annotations

import gzip
import io
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.cli import main
from cfexplain.data.reading import archives, arrays

FOLDER = ["dataset=folder", "dataset.image_size=16", "exposure=confetti", "dataset.max_unreadable_fraction=0"]
MIB = 2**20
BILEVEL = (13_000, 13_500)  # 175 megapixels, in 22 MB of bits, of which the file has 100 kB


pytestmark = pytest.mark.filterwarnings("error")


def refused(capsys, *words: str) -> str:
    """One line about it; nothing of it is kept in the cache, and memory hardly grows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(["train", *words, "runtime=cpu", "dry_run=true", "cache_dir=cache"])
    error = capsys.readouterr().err
    assert code == 3 and len(error.strip().splitlines()) == 1, error
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1500  # MB; torch is among them
    assert sum(path.stat().st_size for path in Path("cache").rglob("*") if path.is_file()) < 100_000  # sound pictures
    assert not [path for path in Path("cache").glob("unpacked/*") if path.is_dir()]
    return error


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("num_images", "words"), [(10, "more of data, 7840"), (6_000_000, "too large")])
def test_a_gz_of_four_gigabytes(num_images, words, capsys):
    header = bytes([0, 0, 8, 3]) + b"".join(side.to_bytes(4, "big") for side in (num_images, 28, 28))
    zeros = gzip.compress(bytes(64 * MIB), 1)
    Path("MNIST/raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        Path(f"MNIST/raw/{name}-ubyte.gz").write_bytes(gzip.compress(header) + 64 * zeros)
    assert words in refused(capsys, "dataset=mnist", "dataset.root=.", "exposure=letters")


def test_an_npz_that_declares_more_than_it_holds(capsys):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 32, 32, 3)}
    )
    with zipfile.ZipFile("c.npz", "w") as archive:
        archive.writestr("x_train.npy", content.getvalue() + bytes(1000))
        archive.writestr("y_train.npy", content.getvalue())
    assert "holds less" in refused(capsys, "dataset=cifar10", "dataset.root=c.npz", "exposure=confetti")


def test_an_npz_that_unpacks_to_too_much(capsys, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", MIB)
    np.savez_compressed("c.npz", x_train=np.zeros((500, 32, 32, 3), np.uint8), y_train=np.zeros(500, int))
    assert "unpacks to more" in refused(capsys, "dataset=cifar10", "dataset.root=c.npz", "exposure=confetti")


def normal_images(folder: Path) -> Path:
    folder.mkdir()
    for index in range(20):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(folder / f"{index}.png")
    return folder


def test_a_picture_of_175_megapixels(capsys):
    Image.new("1", BILEVEL).save(normal_images(Path("parts")) / "huge.png")
    assert "huge.png is too large" in refused(capsys, *FOLDER, "dataset.root=parts")


def test_a_zip_of_such_pictures_is_not_kept(capsys):
    Image.new("1", BILEVEL).save("huge.png")
    normal_images(Path("parts"))
    with zipfile.ZipFile("parts.zip", "w") as archive:
        for path in [*Path("parts").iterdir(), Path("huge.png")]:
            archive.write(path, f"parts/{path.name}")
    assert "huge.png is too large" in refused(capsys, *FOLDER, "dataset.root=parts.zip")


@pytest.mark.parametrize("kind", ["one", "many", "overlapping"])
def test_a_zip_that_grows_is_not_unpacked(kind, capsys, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", MIB)
    with zipfile.ZipFile("parts.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(40 if kind == "many" else 1):
            archive.writestr(f"{index}.bmp", bytes(MIB if kind == "many" else 64 * MIB),
                             zipfile.ZIP_STORED if kind == "overlapping" else None)
        if kind == "overlapping":
            archive.filelist += archive.filelist[:1] * 3
    assert "Do not trust it" in refused(capsys, *FOLDER, "dataset.root=parts.zip")


@pytest.mark.parametrize("format_file", ["code/model.py", "archive_format"])
def test_a_model_file_that_grows(format_file, capsys):
    normal_images(Path("parts"))
    with zipfile.ZipFile("model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (format_file, "constants.pkl", "models/model.json"):
            archive.writestr(f"model/{name}", "")
        archive.writestr("model/data/0", bytes(256 * MIB))
    assert "unpacks to far more" in refused_model(capsys)


def test_a_model_file_of_gigabytes(capsys):
    normal_images(Path("parts"))
    with open("model.pt", "wb") as file:
        file.truncate(3 * 2**30)
    assert "too large (3072 MB, 768 are read)" in refused_model(capsys)


def refused_model(capsys) -> str:
    """The pictures are sound, and stay in the cache."""
    words = ["train", *FOLDER, "dataset.root=parts", "detector=external", "detector.path=model.pt",
             "detector.sha256=null", "runtime=cpu", "dry_run=true", "cache_dir=cache"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(words) == 3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1500
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error
