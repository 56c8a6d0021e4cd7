"""What cameras, scanners and microscopes write comes out as the same picture; what is damaged is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.data.reading.image_files import find_image_files, read_image
from cfexplain.data.reading.image_files import read_mask
from cfexplain.errors import DataError
from tests.conftest import ROOT

SIDE = 16
GREY = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
RGB = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def grey(path: Path, side: int = SIDE) -> np.ndarray:
    return read_image(path, (1, side, side))[0]


def colour(path: Path) -> np.ndarray:
    return read_image(path, (3, SIDE, SIDE)).transpose(1, 2, 0)


@pytest.mark.parametrize("name", ["x.png", "x.BMP", "x.tif", "x.TIFF", "x.ppm", "x.webp"])
def test_lossless_kinds_keep_every_pixel(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    assert (colour(saved(tmp_path / name, RGB, **options)) == RGB).all()


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    assert (colour(saved(tmp_path / "g.pgm", GREY)) == GREY[..., None]).all()
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey(saved(tmp_path / "c.png", RGB)) - luma).max() <= 1  # rounding


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_sixteen_bits_become_eight(tmp_path, name):
    # 257 v is the 16-bit value of the 8-bit value v, whatever the brightest pixel of the image is.
    assert (grey(saved(tmp_path / name, GREY.astype(np.uint16) * 257)) == GREY).all()
    assert (grey(saved(tmp_path / name, (GREY // 8).astype(np.uint16) * 257)) == GREY // 8).all()


@pytest.mark.parametrize(("scale", "dtype"), [(1 / 255, np.float32), (1, np.float32), (257, np.int32)])
def test_floats_and_long_integers(tmp_path, scale, dtype):
    assert (grey(saved(tmp_path / "x.tif", (GREY.astype(float) * scale).astype(dtype))) == GREY).all()


@pytest.mark.parametrize("value", [-1.0, 300.0, float("nan")])
def test_floats_of_no_known_scale_are_refused(tmp_path, value):
    array = GREY.astype(np.float32)
    array[3, 3] = value
    with pytest.raises(DataError, match="float values"):
        grey(saved(tmp_path / "x.tif", array))


@pytest.mark.parametrize("most", [1.02, 1.3, 1.9])
def test_floats_that_overshoot_one_are_cut_there(tmp_path, most):
    values = np.linspace(0, most, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    wanted = np.rint(np.minimum(values, 1) * 255)
    assert np.abs(grey(saved(tmp_path / "x.tif", values)) - wanted).max() <= 1
    whole = np.zeros((SIDE, SIDE), dtype=np.float32)
    whole[3:] = 1  # a dark picture of 0 to 255: of whole numbers up to 2
    whole[5:] = 2
    assert (grey(saved(tmp_path / "y.tif", whole)) == whole).all()


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_fewer_bits_kept_in_sixteen_are_named_and_read(tmp_path, bits):
    values = (GREY / 255 * (2**bits - 1)).astype(np.uint16)
    path = saved(tmp_path / "x.png", values)
    with pytest.raises(DataError, match=f"would be black.*dataset.bits={bits}"):
        grey(path)
    read = {number: read_image(path, (1, SIDE, SIDE), number)[0] for number in (bits, 12, 16)}
    assert np.abs(read[bits].astype(int) - GREY).max() <= 1
    assert np.abs(read[16] - np.rint(values / 257)).max() <= 1
    assert np.abs(read[12] - np.rint(values / 4095 * 255)).max() <= 1  # a dark one stays dark
    with pytest.raises(DataError, match="more than 8 bits hold"):
        read_image(saved(tmp_path / "y.png", GREY.astype(np.uint16) * 257), (1, SIDE, SIDE), 8)
    assert (grey(saved(tmp_path / "z.png", np.zeros((SIDE, SIDE), np.uint16))) == 0).all()


def test_integers_above_sixteen_bits_are_refused(tmp_path):
    with pytest.raises(DataError, match="8 or 16 bits"):
        grey(saved(tmp_path / "x.tif", GREY.astype(np.int32) * 1000))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_black(tmp_path, channels):
    opaque = np.full((SIDE, SIDE, 1), 255, dtype=np.uint8)
    opaque[:8] = 0
    image = Image.fromarray(np.concatenate([np.full_like(RGB, 200), opaque], axis=2))
    image.save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", (channels, SIDE, SIDE))
    assert (pixels[:, :8] == 0).all() and (pixels[:, 8:] == 200).all()
    palette = Image.fromarray(GREY // 128).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=1)
    assert colour(tmp_path / "p.png")[0, 0].tolist() == [10, 20, 30]
    assert colour(tmp_path / "p.png")[-1, -1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_which_way_is_up(tmp_path, orientation):
    upright = np.zeros((24, 16), dtype=np.uint8)
    upright[:12, :8] = 255  # bright at the top left
    # How the sensor saw it: the inverse of what EXIF asks a viewer to do.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T, 6: np.rot90(upright),
        7: np.rot90(upright, 2).T, 8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved(tmp_path / "x.png", np.ascontiguousarray(stored), exif=exif)
    assert (read_image(tmp_path / "x.png", (1, 24, 16))[0] == upright).all()


def test_shrinking_averages(tmp_path):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (256, 128))
    averages = grey(saved(tmp_path / "x.png", stripes)).astype(int)
    assert np.abs(averages - 127.5).max() < 4  # the window is cut off at the border
    smooth = np.asarray(Image.fromarray(RGB).resize((1600, 1200), Image.Resampling.BICUBIC))
    whole = colour(saved(tmp_path / "x.bmp", smooth)).astype(int)
    # A JPEG is decoded at a fraction of its size; it stays within its own losses.
    assert np.abs(colour(saved(tmp_path / "x.jpg", smooth, quality=98)) - whole).mean() < 3
    small = np.asarray(Image.fromarray(RGB).resize((256, 256), Image.Resampling.BICUBIC))
    halved = read_image(saved(tmp_path / "x.bmp", small), (3, 128, 128)).astype(int)
    # ... and never below the size that is wanted.
    assert np.abs(read_image(saved(tmp_path / "x.jpg", small, quality=98), (3, 128, 128)) - halved).mean() < 3


def test_squashed_whatever_the_shape(tmp_path):
    wide = np.concatenate([np.zeros((10, 40), np.uint8), np.full((10, 40), 255, np.uint8)], axis=1)
    pixels = grey(saved(tmp_path / "x.png", wide))
    assert (pixels[:, :7] == 0).all() and (pixels[:, 9:] == 255).all()


def test_of_several_pictures_the_first_is_taken(tmp_path):
    first, second = Image.new("L", (SIDE, SIDE), 40), Image.new("L", (SIDE, SIDE), 200)
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])  # as some phones write
    assert (grey(tmp_path / "x.tif") == 40).all() and (grey(tmp_path / "x.jpg") == 40).all()


def test_cmyk_and_one_bit(tmp_path):
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert colour(tmp_path / "x.tif")[0, 0].tolist() == [255, 0, 0]
    Image.fromarray(GREY > 127).save(tmp_path / "x.png")
    assert (grey(tmp_path / "x.png") == (GREY > 127) * 255).all()


def test_files_are_found_sorted_and_hidden_ones_are_not(tmp_path):
    hidden = [".hidden.png", "__MACOSX/b.png", ".git/x.png", "notes.txt", "d.gif"]
    for name in ["b.png", "a/z.JPG", "a/a.tiff", "c.Webp", *hidden]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_image_files(tmp_path)]
    assert found == ["a/a.tiff", "a/z.JPG", "b.png", "c.Webp"]


def check_refused(path: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        grey(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.tif", "x.webp", "x.ppm"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_file_cut_short_is_named(tmp_path, name, share):
    noise = np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    check_refused(path, "damaged|no image")


@pytest.mark.filterwarnings("ignore")
def test_random_damage_is_an_image_or_a_data_error(tmp_path):
    rng = np.random.default_rng(2)
    for name in ("x.png", "x.jpg", "x.tif", "x.webp", "x.bmp", "x.ppm"):
        content = saved(tmp_path / name, RGB).read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(len(content), size=5):
                damaged[place] = rng.integers(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                assert grey(tmp_path / name).shape == (SIDE, SIDE)
            except DataError as error:
                assert "\n" not in str(error)


def test_what_is_no_image_is_named(tmp_path):
    for name, content, kind in (("x.png", b"not an image", "no image"), ("y.jpg", b"<html></html>", "a web page"),
                                ("z.png", b"%!PS-Adobe-3.0 EPSF", "no image")):
        (tmp_path / name).write_bytes(content)
        check_refused(tmp_path / name, kind)
    Image.fromarray(GREY).save(tmp_path / "gif.png", format="GIF")  # of a kind that is not read, whatever its name
    check_refused(tmp_path / "gif.png", "a GIF, which is not read")
    check_refused(saved(tmp_path / "thin.png", GREY[:7]), "16x7: a side below 8")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    check_refused(tmp_path / "link.png", "a broken link")
    check_refused(tmp_path / "gone.png", "not there")


def test_a_decompression_bomb_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    check_refused(tmp_path / "bomb.png", "too large")


def test_no_permission_is_said(tmp_path):
    """In a process of its own that is nobody, since root may read everything."""
    saved(tmp_path / "x.png", GREY).chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom PIL import Image\nImage.preinit()\n"
        "from cfexplain.data.reading.image_files import read_image\nfrom cfexplain.errors import DataError\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "if os.geteuid() == 0: os.setegid(65534); os.seteuid(65534)\n"
        "try: read_image(Path('x.png'), (1, 16, 16))\nexcept DataError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "no permission to read x.png.", done.stderr


def test_a_mask_keeps_half_covered_pixels_and_never_vanishes(tmp_path):
    image = saved(tmp_path / "x.png", np.zeros((32, 32), np.uint8))
    marked = np.zeros((32, 32), np.uint8)
    marked[4:8, 4:7] = 255  # 3 of 4 columns of one block of 4x4, which is one pixel of 8x8
    marked[4:8, 8] = 255  # 1 of 4 columns of the next
    mask = read_mask(saved(tmp_path / "m.png", marked), image, (8, 8))
    assert np.argwhere(mask).tolist() == [[1, 1]]
    thin = np.zeros((32, 32), np.uint8)
    thin[13, 20] = 1  # any value above 0 marks
    assert np.argwhere(read_mask(saved(tmp_path / "m.png", thin), image, (8, 8))).tolist() == [[3, 5]]


def test_a_mask_of_another_size_is_refused(tmp_path):
    image = saved(tmp_path / "x.png", np.zeros((32, 24), np.uint8))
    with pytest.raises(DataError, match=r"m\.png is 32x24 and .*x\.png is 24x32"):
        read_mask(saved(tmp_path / "m.png", np.zeros((24, 32), np.uint8)), image, (8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side, so 32x24 as shown
    read_mask(tmp_path / "m.png", saved(tmp_path / "x.png", np.zeros((32, 24), np.uint8), exif=exif), (8, 8))
