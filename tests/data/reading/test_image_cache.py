"""The cache of decoded images: built once, checked when opened, healed when damaged, flat in memory."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.data.reading import image_cache
from cfexplain.data.reading.image_cache import CachedImages, mapped_images
from cfexplain.errors import DataError
from tests.conftest import ROOT

SHAPE = (3, 16, 16)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(150, 16, 16, 3), dtype=np.uint8)
    paths = [folder / f"{index:03d}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture
def opened(tmp_path, files):
    def read(chosen=files, shape=SHAPE, limit=0, unreadable=0.0) -> CachedImages:
        return mapped_images(chosen, shape, str(tmp_path / "cache"), limit, unreadable)

    return read


def true_images(files: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in files])


def cache_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache/images").glob("*.u8")
    return path


@pytest.fixture
def no_decoding(monkeypatch):
    def forbid():
        monkeypatch.setattr(image_cache, "_build", lambda *_: pytest.fail("decoded although cached"))

    return forbid


@pytest.mark.parametrize(("limit", "is_mapped"), [(0, True), (1, False)])  # 150 images are 0.11 MB
def test_images_come_in_order_and_the_limit_decides_where_they_lie(files, opened, limit, is_mapped):
    for _ in range(2):
        cached = opened(limit=limit)
        assert cached.is_mapped == is_mapped == isinstance(cached.images, np.memmap)
        assert (cached.images == true_images(files)).all() and cached.indices.tolist() == list(range(150))


def test_torch_may_write_and_the_file_stays_as_it_is(tmp_path, opened):
    import torch

    cached = opened()
    before = cache_file(tmp_path).read_bytes()
    torch.from_numpy(cached.images)[:] = 0
    assert (cached.images == 0).all() and cache_file(tmp_path).read_bytes() == before != bytes(len(before))


def test_what_is_cached_is_known_by_content(tmp_path, files, opened):
    first = opened().images
    moved = [path.rename(tmp_path / path.name) for path in files]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_cache, "_build", lambda *_: pytest.fail("decoded although cached"))
        assert (opened(moved).images == first).all()
    assert (opened(moved[::-1]).images == first[::-1]).all()
    greys = np.stack([np.asarray(Image.open(path).convert("L")) for path in moved])
    assert (opened(moved, (1, 16, 16)).images[:, 0] == greys).all()
    moved[3].write_bytes(moved[4].read_bytes())
    assert (opened(moved).images[3] == first[4]).all()


@pytest.mark.parametrize("damage", ["cut", "flip", "grow", "no notes", "bad notes"])
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, files, opened, damage, caplog, no_decoding):
    opened()
    path = cache_file(tmp_path)
    whole, notes = path.read_bytes(), path.with_suffix(".json")
    middle = len(whole) // 2
    if damage == "no notes":
        notes.unlink()
    elif damage == "bad notes":
        notes.write_text("{")
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:-1], "flip": flipped, "grow": whole + b"x"}[damage])
    assert (opened().images == true_images(files)).all()
    assert path.read_bytes() == whole
    assert "is damaged; making it again" in caplog.text and path.name in caplog.text
    no_decoding()
    opened()


def test_few_unreadable_images_are_left_out_counted_and_named(files, opened, caplog, no_decoding):
    caplog.set_level(logging.INFO)
    files[7].write_bytes(b"no image")
    files[100].write_bytes(files[100].read_bytes()[:60])
    for _ in range(2):  # built, and from the cache
        caplog.clear()
        cached = opened(unreadable=2 / 150)
        kept = [index for index in range(150) if index not in (7, 100)]
        assert cached.indices.tolist() == kept
        assert (cached.images == true_images([files[index] for index in kept])).all()
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.getMessage() == "left out 2 of 150 images that cannot be read"
        assert str(files[7]) in caplog.text and str(files[100]) in caplog.text
        no_decoding()


def test_too_many_unreadable_images_are_an_error_also_from_the_cache(files, opened):
    files[7].write_bytes(b"no image")
    files[100].unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 of 150 images cannot be used, first: .*007\.png is no image") as caught:
            opened(unreadable=1.99 / 150)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 3
    with pytest.raises(DataError, match="1 of 1 images"):
        opened([files[7]], unreadable=0.99)


START = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from cfexplain.data.reading.image_cache import mapped_images
print("ready", flush=True)
sys.stdin.readline()
files = sorted(Path(sys.argv[1]).iterdir())
images = mapped_images(files, (3, 16, 16), sys.argv[2], 0, 0.0).images
print(int(images.astype(int).sum()))
"""


def test_of_two_jobs_at_once_one_builds(tmp_path, files):
    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", START, str(files[0].parent), str(tmp_path / "cache")]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    jobs = [start() for _ in range(3)]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    outputs = [job.communicate(timeout=60) for job in jobs]
    assert {out for out, _ in outputs} == {f"{true_images(files).astype(int).sum()}\n"}
    errors = "".join(error for _, error in outputs)
    assert errors.count("decoding 150 images") == 1 and "damaged" not in errors


def test_what_a_killed_job_left_is_removed(tmp_path, files, opened):
    opened()
    path = cache_file(tmp_path)
    path.unlink()
    (path.parent / f".{path.name}-0123abcd.cfexplain-partial").write_bytes(b"half")
    (path.parent / f".{path.name}.mine").write_bytes(b"kept")
    assert (opened().images == true_images(files)).all()
    assert [left.name for left in path.parent.glob(".*")] == [f".{path.name}.mine"]


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path, files):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cache_dir"):
        mapped_images(files, SHAPE, str(tmp_path / "file"), 0, 0.0)


MEMORY = """
import sys
from pathlib import Path
from cfexplain.data.reading.image_cache import mapped_images
def memory_mb(kind):
    return int(Path("/proc/self/status").read_text().split(kind + ":")[1].split()[0]) / 1024
files = sorted(Path(sys.argv[1]).iterdir())
mapped_images(files[:1], (3, 256, 256), sys.argv[2], 0, 0.0)
before, anonymous_before = memory_mb("VmHWM"), memory_mb("RssAnon")
images = mapped_images(files * 8, (3, 256, 256), sys.argv[2], 0, 0.0).images
peak = memory_mb("VmHWM") - before
images[::7].max()
print(peak, memory_mb("RssAnon") - anonymous_before, images.nbytes / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_while_building_and_reading(tmp_path, files):
    command = [sys.executable, "-c", MEMORY, str(files[0].parent), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    peak_of_building, kept_while_reading, size = map(float, done.stdout.split())
    assert size == 225
    # A chunk of 64 images is 12 MB: a few of them and what threads keep, and by far not the whole.
    assert peak_of_building < 90 and kept_while_reading < 90
