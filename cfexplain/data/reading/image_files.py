"""Image files of any kind, and masks of defects, as arrays of one shape: what cameras and scanners write, by Pillow.

Whatever is wrong with a file is one DataError that names it.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import RLock

import numpy as np
from PIL import Image, PngImagePlugin

from cfexplain.errors import ConfigError, DataError, reason_of
from cfexplain.files import regular
from cfexplain.types import ImageShape

EXTENSIONS = frozenset(  # all that Pillow has for FORMATS
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm",
     ".pbm", ".pnm", ".pfm"}
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")  # nothing that starts another program, as EPS does
MIN_SIDE = 8
MEGAPIXELS = os.environ.get("CFEXPLAIN_MAX_MEGAPIXELS", "50")
if re.fullmatch("[1-9][0-9]{0,5}", MEGAPIXELS) is None:
    raise ConfigError(f"CFEXPLAIN_MAX_MEGAPIXELS must be a whole number from 1 on, got {MEGAPIXELS!r:.60}")
MAX_PIXELS = int(MEGAPIXELS) * 10**6  # each takes up to 40 bytes in decoding
LARGE = 5_000_000  # from so many pixels on, threads decode one after the other
_ONE_AT_A_TIME = RLock()
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, which is higher, and a warning of two lines below it
LEAST_BITS = 12  # of a file of 16: what fits into fewer is hardly meant so
OVERSHOOT = 2  # floats that are meant to end at 1 and were resized or sharpened end below this
EXIF_ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # orientations that exchange width and height
TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))  # how each is set upright
OTHERS = {  # what a file begins with -> what it is then
    b"....ftyp(hei|hev|mif1|msf1)": "a HEIC picture", b"....ftypavi": "an AVIF picture", b"GIF8": "a GIF",
    b"\0\0\0\x0cjP  |\xffO\xffQ": "a JPEG 2000", b"\0\0\0\x0cJXL |\xff\n": "a JPEG XL", b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file", b"v/1\x01": "an OpenEXR file", b"\\s*<(\\?xml|svg)": "an SVG or XML file",
    b"(?i)\\s*<(!doctype )?html": "a web page", b"version https://git-lfs": "a pointer of Git LFS, not yet fetched",
    b"PK\3\4": "a zip archive", b"\x1f\x8b": "a gzip file",
}
# What Pillow's decoders raise on bytes they did not expect.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)


class TooLarge(DataError):
    """A picture of more pixels than are decoded."""


def find_image_files(folder: Path) -> list[Path]:
    """Image files anywhere below, by relative name; hidden ones and macOS's __MACOSX left out, links followed."""
    return [path for path in find_files(folder) if path.suffix.lower() in EXTENSIONS]


def find_files(folder: Path) -> list[Path]:
    """The same of files of any kind."""
    found: list[Path] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename} ({error.strerror}).") from error

    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        true_path = os.path.realpath(here)
        folders[:] = [] if true_path in seen else [name for name in folders if _is_visible(name)]
        if true_path not in seen:
            found += [Path(here, name) for name in files if _is_visible(name)]
        seen.add(true_path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def find_folders(folder: Path) -> list[Path]:
    """The visible ones directly in it, by name."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and _is_visible(path.name))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder} ({error.strerror}).") from error


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def read_image(path: Path, image_shape: ImageShape, bits: int | None = None) -> np.ndarray:
    """(C, H, W) uint8: turned as EXIF says, in 8 bit, grey or RGB, squashed to H x W with antialiasing.

    What is transparent becomes black. Grey is ITU-R BT.601 luma. Of several pictures in a file the first is taken.
    bits: that count in a file of 16; None: all, and a picture that is nearly black then is a DataError.
    """
    channels, height, width = image_shape
    with opened_image(path) as image:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the size leaves the antialiasing to `resize`.
        image.draft(None, (2 * max(height, width), 2 * max(height, width)))
        image.load()  # here, where damage is noticed: reading EXIF would load it too
        turn = TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        plain = _eight_bit(upright, path, bits).convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(plain.resize((width, height), Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_mask(path: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of `size` = (H, W): where at least half of the area is marked, or any of it if that leaves nothing.

    DataError where the mask is not as large as its image.
    """
    height, width = size
    with opened_image(path) as mask:
        mask_size = mask.size
        marked = Image.fromarray((np.asarray(mask.convert("L")) > 0).astype(np.uint8) * 255)
    image_size = _size_or_none(image)
    if image_size not in (None, mask_size):
        sizes = f"{mask_size[0]}x{mask_size[1]} and {image} is {image_size[0]}x{image_size[1]}"
        raise DataError(f"{path} is {sizes}: a mask must be as large as its image.")
    shares = np.asarray(marked.resize((width, height), Image.Resampling.BOX))
    return shares >= 128 if (shares >= 128).any() else shares > 0


def _size_or_none(image: Path) -> tuple[int, int] | None:
    """Width and height as shown; None for a damaged image, which is another's business."""
    try:
        with opened_image(image) as opened:
            width, height = opened.size
            return (height, width) if _orientation(opened) in TURNED else (width, height)
    except DataError:
        return None


def _orientation(image: Image.Image) -> int | None:
    """As EXIF says; None where that is damaged, which harms no pixel."""
    try:
        return image.getexif().get(EXIF_ORIENTATION)
    except DAMAGED:
        return None


def _passed_over(stream: PngImagePlugin.PngStream, position: int, length: int) -> bytes:
    """A chunk of a PNG that says nothing of its pixels: neither its size nor damage in it matters."""
    return stream.fp.read(length)


def _crc_of_pixels(stream: PngImagePlugin.PngStream, name: bytes, content: bytes) -> None:
    """A small letter begins the name of a chunk that a picture can do without."""
    if name[:1].islower():
        stream.crc_skip(name, content)
    else:
        _png_crc(stream, name, content)


_png_crc, PngImagePlugin.PngStream.crc = PngImagePlugin.PngStream.crc, _crc_of_pixels
for _name in ("tEXt", "zTXt", "iTXt", "iCCP"):
    setattr(PngImagePlugin.PngStream, f"chunk_{_name}", _passed_over)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """The file opened by Pillow, its size checked; what goes wrong with it inside the block is a DataError."""
    try:
        with Image.open(regular(path), formats=FORMATS) as image:
            width, height = image.size
            if min(width, height) < MIN_SIDE:
                raise DataError(f"{path} is {width}x{height}: a side below {MIN_SIDE} pixels shows nothing.")
            if width * height > MAX_PIXELS:
                size = f"{width}x{height} pixels, {MAX_PIXELS / 1e6:.0f} million are read"
                raise TooLarge(f"{path} is too large to be decoded ({size}). Make it smaller, or set the environment's "
                               "CFEXPLAIN_MAX_MEGAPIXELS.")
            with _ONE_AT_A_TIME if width * height > LARGE else nullcontext():
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{path} is {'a broken link' if path.is_symlink() else 'not there'}.") from error
    except PermissionError as error:
        raise DataError(f"no permission to read {path}.") from error
    except Image.UnidentifiedImageError as error:
        with path.open("rb") as file:
            start = file.read(32)
        kinds = (kind for begins, kind in OTHERS.items() if re.match(begins, start, re.DOTALL))
        kind = next(kinds, None)
        what = "no image, or damaged at its start" if kind is None else f"{kind}, which is not read; save it as PNG"
        raise DataError(f"{path} is {what}.") from error
    except DAMAGED as error:
        raise DataError(f"{path} is damaged or cut short ({reason_of(error)}).") from error


def _eight_bit(image: Image.Image, path: Path, bits: int | None) -> Image.Image:
    """8 bits a channel, without transparency."""
    if image.mode.startswith(("I", "F")):  # 16 bit, in 16 bits or in 32; or floats from 0 to 1 or to 255
        values, is_float = np.asarray(image), image.mode == "F"
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= (255 if is_float else 65535)):  # NaN is refused too
            wanted = "Scale them to 0 to 1" if is_float else "Save it with 8 or 16 bits"
            raise DataError(f"{path} has {'float ' * is_float}values from {low:g} to {high:g}. {wanted}.")
        if is_float and (high <= 1 or high < OVERSHOOT and (values != np.rint(values)).any()):
            values = values.clip(max=1) * 255
        if not is_float:
            values = values * (255 / _white(path, high, bits))
        return Image.fromarray(np.rint(values).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image)


def _white(path: Path, high: int, bits: int | None) -> int:
    """The value of white in a file of 16 bits. The brightest pixel does not tell: a picture may be dark."""
    white = 2 ** (bits or 16) - 1
    if high > white:
        raise DataError(f"{path} has values up to {high}, more than {bits} bits hold. Train with more dataset.bits.")
    if bits is None and 0 < high < 2**LEAST_BITS:
        fitting = next(number for number in (8, 10, LEAST_BITS) if high < 2**number)
        raise DataError(
            f"{path} ends at {high} of 65535, as {fitting} bits kept in 16 do, and would be black. Rescale it to 8 or "
            f"all 16 bits, or train with dataset.bits={fitting}, the camera's number; 16 takes it as it is."
        )
    return white
