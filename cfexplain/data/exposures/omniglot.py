"""Handwritten characters of many alphabets (Lake et al., 2015), brought to the form of MNIST's digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFilter

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.cache import cached_images
from cfexplain.data.reading.idx import read_idx_images
from cfexplain.data.reading.image_cache import content_key, file_digests
from cfexplain.data.reading.image_files import read_image
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import DataError, did_you_mean, reason_of
from cfexplain.lazy import torchvision

SIDE, INNER_SIDE, DRAWING_SIDE = 28, 20, 105
_PATTERN = "images_background*"
_TORCHVISION_FOLDER = "omniglot-py"
_VERSION = 1  # raise it when `to_mnist_form` changes
_IDX = ("ubyte", "ubyte.gz")


@dataclass(frozen=True, kw_only=True)
class Omniglot(ExposureSpec):
    root: str
    download: bool
    leave_out: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leave_out and self.root.endswith(_IDX):
            raise ValueError("leave_out needs root to hold the drawings by alphabet; an idx file does not name them")

    def pictures(self, request: ExposureRequest) -> RawImages:
        root = Path(self.root).expanduser()
        if self.root.endswith(_IDX):
            return exposure_images(read_idx_images(root))
        drawings = self._without_left_out(_drawings(root, self.download, request.cache_dir))
        paths = list(drawings.values())
        images = cached_images(
            Path(request.cache_dir).expanduser() / "decoded",
            "omniglot",
            (_VERSION, PIL.__version__, content_key((1, SIDE, SIDE), file_digests(paths))),
            (len(paths), SIDE, SIDE),
            lambda: np.stack([to_mnist_form(_drawing(path)) for path in paths]),
        )
        return exposure_images(images, [f"exposure/{name.removesuffix('.png')}" for name in drawings])

    def _without_left_out(self, drawings: dict[str, Path]) -> dict[str, Path]:
        alphabets = sorted({name.split("/")[0] for name in drawings})
        for alphabet in self.leave_out:
            if alphabet not in alphabets:
                hint = did_you_mean(alphabet, alphabets)
                raise DataError(f"exposure.leave_out: no alphabet {alphabet!r} in {self.root}.{hint}")
        kept = {name: path for name, path in drawings.items() if name.split("/")[0] not in self.leave_out}
        if not kept:
            raise DataError(f"exposure.leave_out leaves no alphabet of {self.root}. Leave fewer out.")
        return kept


def to_mnist_form(strokes: np.ndarray) -> np.ndarray:
    """(105, 105) uint8, 255 where a stroke is -> (28, 28) uint8, sized and centred as LeCun et al. (1998) did.

    Strokes are made a pixel thicker on each side, for they are thinner than MNIST's. The longer side then gets 20
    pixels by area averaging, and the centre of mass lies in the middle.
    """
    thick = Image.fromarray(strokes).filter(ImageFilter.MaxFilter(3))
    box = thick.crop(thick.getbbox())
    scale = INNER_SIDE / max(box.size)
    width, height = (max(1, round(side * scale)) for side in box.size)
    small = np.asarray(box.resize((width, height), Image.Resampling.BOX)).astype(np.float64)
    small = np.rint(small * (255 / small.max())).astype(np.uint8)
    image = np.zeros((SIDE, SIDE), dtype=np.uint8)
    top, left = (_corner(small.sum(axis=axis, dtype=np.float64)) for axis in (1, 0))
    image[top : top + height, left : left + width] = small
    return image


def _corner(mass: np.ndarray) -> int:
    """Where a side with that mass in each pixel begins, so that its centre of mass lies in the middle of 28 pixels."""
    centre = (mass * np.arange(len(mass))).sum() / mass.sum()
    return min(max(round((SIDE - 1) / 2 - centre), 0), SIDE - len(mass))


def _drawing(path: Path) -> np.ndarray:
    """(105, 105) uint8, strokes 255. DataError where nothing is drawn."""
    strokes = 255 - read_image(path, (1, DRAWING_SIDE, DRAWING_SIDE))[0]
    if not strokes.any():
        raise DataError(f"{path} is blank. Fetch it again or remove it.")
    return strokes


def _drawings(root: Path, download: bool, cache_dir: str) -> dict[str, Path]:
    """'<alphabet>/<character>/<drawing>.png' -> file, sorted; a drawing that is in several folders counts once."""
    advice = (
        f"no Omniglot drawings in {root}. Put images_background.zip (or _small1.zip, _small2.zip) there, set "
        "exposure.root to the folder or .zip that holds them, or set exposure.download=true (9 MB)."
    )
    sources = _sources(root)
    if not sources and download and root.suffix != ".zip":
        try:
            torchvision.datasets.Omniglot(str(root), background=True, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"download failed ({reason_of(error)}). {advice}") from error
        sources = _sources(root)
    drawings: dict[str, Path] = {}
    for source in sources:
        folder = unpacked(source, cache_dir)
        tops = [folder] if folder.match(_PATTERN) else sorted(folder.glob(f"{_PATTERN}/"))
        for top in tops:
            for path in top.glob("*/*/*.png"):
                drawings.setdefault(path.relative_to(top).as_posix(), path)
    if not drawings:
        raise DataError(advice)
    return dict(sorted(drawings.items()))


def _sources(root: Path) -> list[Path]:
    """Folders and zips with drawings: root itself, or those in it or in torchvision's folder in it."""
    if root.suffix == ".zip" or root.match(_PATTERN):
        return [root] if root.exists() else []
    for holder in (root, root / _TORCHVISION_FOLDER):
        folders = sorted(path for path in holder.glob(_PATTERN) if path.is_dir())
        zips = sorted(path for path in holder.glob(f"{_PATTERN}.zip") if path.with_suffix("") not in folders)
        if folders or zips:
            return folders + zips
    return []
