"""Where the outlier exposure of grey digits comes from."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path

import numpy as np

from cfexplain.data.colours import Masks
from cfexplain.data.idx import read_idx_images
from cfexplain.data.rendering import LETTERS, cached_masks
from cfexplain.data.splitting import not_among, numbered
from cfexplain.data.torchvision_files import EMNIST_LETTERS, read_files
from cfexplain.errors import DataError

NUM_RENDERED_LETTERS = 12_000
log = logging.getLogger(__name__)


class Exposure(Enum):
    """emnist: handwritten letters (torchvision's EMNIST). idx: images of an idx file. letters: rendered letters."""

    emnist = "emnist"
    idx = "idx"
    letters = "letters"
    none = "none"


def read_exposure(
    source: Exposure, images_path: str | None, root: str, download: bool, cache_dir: str, limit: int | None, seed: int
) -> Masks | None:
    """Grey (N, 28, 28) images in random order; None without exposure. All shapes are -1.

    limit: how many letters to render; files are given whole, to be cut after duplicates are removed.
    """
    if source is Exposure.none:
        return None
    if source is Exposure.letters:
        characters = "".join(np.resize(list(LETTERS), limit or NUM_RENDERED_LETTERS))
        images = cached_masks(cache_dir, "letters", characters, seed)
    elif source is Exposure.idx:
        assert images_path is not None, "the spec checks this"
        images = read_idx_images(Path(images_path).expanduser())
    else:
        images = read_emnist_letters(root, download, cache_dir)
    order = np.random.default_rng([seed, 2]).permutation(len(images))
    return Masks(images[order], np.full(len(order), -1), numbered("exposure", order))


def read_emnist_letters(root: str, download: bool, cache_dir: str) -> np.ndarray:
    """(N, 28, 28) uint8, upright: the files hold them transposed."""
    images, _ = read_files(EMNIST_LETTERS, root, download, cache_dir, is_train=True)
    return images.transpose(0, 2, 1)


def without_normals(exposure: Masks, normals: np.ndarray, limit: int | None) -> Masks:
    """At most `limit` exposure images, without those that equal, pixel by pixel, one of the (N, 28, 28) `normals`."""
    is_new = not_among(exposure.images, normals)
    num_removed = int((~is_new).sum())
    if num_removed:
        log.warning("removed %d of %d exposure images that are also normal images", num_removed, len(is_new))
    if not is_new.any():
        raise DataError("all exposure images are normal images too. Choose another dataset.exposure.")
    kept = np.flatnonzero(is_new)[:limit]
    return Masks(exposure.images[kept], exposure.shapes[kept], [exposure.ids[i] for i in kept])
