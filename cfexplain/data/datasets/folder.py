"""Folders of image files: roles from names, then all images decoded into one mapped cache; your own folder.

The splits lie one after the other in that cache, so each is a view of it and memory stays flat.
"""

from __future__ import annotations

import logging
import os
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from cfexplain.checks import check_at_least, check_between, check_share
from cfexplain.data.datasets.base import as_slug, AugmentedDataset
from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec, load_exposure
from cfexplain.data.reading.archives import unpacked
from cfexplain.data.reading.folder_layout import find_layout, Layout, read_groups, unused_reason
from cfexplain.data.reading.image_cache import CachedImages, check_source, file_digests, mapped_images
from cfexplain.data.reading.image_files import find_files, MIN_SIDE, read_image, read_mask
from cfexplain.data.recorded_split import FoundImage, RecordedSplit
from cfexplain.data.splits import held_out_mask, role_lines
from cfexplain.errors import CfexplainWarning, DataError
from cfexplain.files import printable
from cfexplain.lazy import Tensor, torch
from cfexplain.types import ANOMALOUS, Augmentation, ImageSet, ImageShape, NORMAL, Splits

log = logging.getLogger(__name__)

NUM_LOOKED_AT = 16  # normal images, to tell grey from colour
MAX_SLUG = 40
PART_NAMES = ("training", "held-out", "normal test")  # parts without which there is no dataset


@dataclass(frozen=True, kw_only=True)
class FolderDataset(AugmentedDataset):
    """root: a folder, or a .zip of one. channels: null leaves it to the dataset.

    bits: those that count in files of 16; null: all, and a picture that is nearly black then is refused.

    rotation, exposure: of training batches, as flip and crop_padding are.
    """

    rotation: float
    exposure: float
    root: str
    image_size: int
    channels: int | None
    bits: int | None
    memory_limit_mb: int
    max_unreadable_fraction: float

    def __post_init__(self) -> None:
        check_at_least(self, image_size=MIN_SIDE, memory_limit_mb=0)
        super().__post_init__()
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 (grey), 3 (RGB) or null, got {self.channels}")
        check_between(self, 0, 180, "rotation")
        check_between(self, 0, 0.9, "exposure")
        if self.bits is not None:
            check_between(self, 8, 16, "bits")
        check_source(self.root, self.max_unreadable_fraction)

    @property
    def augmentation(self) -> Augmentation | None:
        found = Augmentation(
            flip=self.flip, crop_padding=self.crop_padding, rotation=self.rotation, exposure=self.exposure
        )
        return found if any(vars(found).values()) else None

    @property
    def advice(self) -> str:
        """What to do where there are no files."""
        return "Set dataset.root to a folder of images or a .zip of one."

    @abstractmethod
    def layout(self, root: Path) -> Layout:
        """What each file below root, a folder, is for."""

    def groups_of(self, layout: Layout) -> np.ndarray | None:
        """(N,) int of the layout's normals, of which those of one group are held out together, or None."""
        return None

    def tables(self, layout: Layout) -> list[Path]:
        """Files that are read beside the images."""
        return []

    def with_tests(self, layout: Layout) -> Layout:
        """With normal test images, where the folders name none."""
        return layout

    def load(self, exposure: ExposureSpec) -> Splits:
        return self._load(exposure, None)

    def load_again(self, exposure: ExposureSpec, recorded: RecordedSplit) -> Splits:
        return self._load(exposure, recorded)

    def _load(self, exposure: ExposureSpec, recorded: RecordedSplit | None) -> Splits:
        """What names and headers tell is checked before the images are decoded."""
        root = Path(self.root).expanduser()
        if not os.path.exists(root):
            raise DataError(f"{root} is not there, or may not be read. {self.advice}")
        layout = self.layout(unpacked(root, self.cache_dir))
        every = [*layout.normals, *layout.test_normals, *(defect.path for defect in layout.defects)]
        digests = dict(zip(every, file_digests(every), strict=True))
        if recorded is None:
            _note_unused(layout, every, self.tables(layout))
            layout = self.with_tests(layout)
            parts = self._parts(layout)
        else:
            layout, parts = _recorded_parts(layout, recorded, digests)
            for name, part in zip(PART_NAMES, parts, strict=False):
                if not part:
                    raise DataError(f"{layout.base} holds no {name} image of {recorded.file}. {self.advice}")
        shape = (self.num_channels(parts[0]), self.image_size, self.image_size)
        masks = _masks(layout, shape)
        files = [path for part in parts for path in part]
        cached = mapped_images(
            files, shape, self.cache_dir, self.memory_limit_mb, self.max_unreadable_fraction,
            digests=[digests[path] for path in files], bits=self.bits,
        )
        roles = np.repeat(range(len(parts)), [len(part) for part in parts])[cached.indices]
        for role, name in enumerate(PART_NAMES):
            if role not in roles:
                remedy = "Add normal images." if recorded is None else self.advice
                raise DataError(f"no readable image is left as {name} image in {layout.base}. {remedy}")
        whole = _image_set(layout, [files[index] for index in cached.indices], cached)
        train, held_out, test = (whole.select(torch.from_numpy(part)) for part in (roles == 0, roles == 1, roles > 1))
        if masks is not None:
            test = replace(test, masks=masks[cached.indices[roles > 1] - len(parts[0]) - len(parts[1])])
        request = ExposureRequest(
            normals=cached.images[: len(train) + len(held_out)],
            learned=cached.images[: len(train)],
            class_names=layout.class_names,
            cache_dir=self.cache_dir,
        )
        splits = Splits(
            train=train, held_out=held_out, exposure=load_exposure(exposure, request), test=test, reference=train,
            class_names=layout.class_names, factors=None, augmentation=self.augmentation,
            fresh=exposure.fresh,
            digests={image_id(path, layout.base): digest.hex() for path, digest in digests.items()},
        )
        log.info("what the images of %s are used for:\n%s", layout.base, "\n".join(role_lines(splits)))
        return splits

    def _parts(self, layout: Layout) -> tuple[list[Path], ...]:
        """Files of train, held-out, test normals, test anomalies."""
        normals = layout.normals
        try:
            is_held_out = held_out_mask(
                np.zeros(len(normals)), self.held_out_fraction, self.seed, self.groups_of(layout)
            )
        except DataError as error:
            raise DataError(f"{error} in {layout.base}. Add normal images.") from error
        train, held_out = list(compress(normals, ~is_held_out)), list(compress(normals, is_held_out))
        return train, held_out, list(layout.test_normals), [defect.path for defect in layout.defects]

    def num_channels(self, normals: Sequence[Path]) -> int:
        """1 where `channels` is null and the first normal images have no colour."""
        return self.channels or (1 if all(_is_grey(path, self.bits) for path in normals[:NUM_LOOKED_AT]) else 3)


@dataclass(frozen=True, kw_only=True)
class Folder(FolderDataset):
    """train/good with test/<class>, or normal with anomalous, or normal images alone (see folder_layout).

    groups:       a CSV file, below the root, of what shows the same part: such images are not split between training,
                  held-out and, where there is no folder of them, test images. Else these would be known already.
    group_column: its column of them, beside `file`, the path below the root.
    """

    test_fraction: float
    groups: str | None
    group_column: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "test_fraction")

    @property
    def slug(self) -> str:
        name = Path(os.path.realpath(Path(self.root).expanduser())).name.removesuffix(".zip")
        return f"folder-{as_slug(name)[:MAX_SLUG] or 'images'}"

    def layout(self, root: Path) -> Layout:
        return find_layout(root)

    def with_tests(self, layout: Layout) -> Layout:
        return layout.with_test_normals(self.test_fraction, self.seed, self.groups_of(layout))

    def tables(self, layout: Layout) -> list[Path]:
        return [] if self.groups is None else [layout.base / self.groups]

    def groups_of(self, layout: Layout) -> np.ndarray | None:
        return None if self.groups is None else read_groups(*self.tables(layout), self.group_column, layout)


def image_id(path: Path, base: Path) -> str:
    """The path below base, as it may go into tables."""
    return printable(path.relative_to(base))


def _recorded_parts(
    layout: Layout, recorded: RecordedSplit, digests: dict[Path, bytes]
) -> tuple[Layout, tuple[list[Path], ...]]:
    """What a run has the images for: a layout of its test images, and the files, as `_parts` gives them."""
    defects = {defect.path: defect for defect in layout.defects}
    classes = {path: defects[path].class_name if path in defects else layout.normal_class for path in digests}
    paths = list(digests)
    found = recorded.find_again([
        FoundImage(id=image_id(path, layout.base), class_name=classes[path], sha256=digests[path].hex())
        for path in paths
    ])
    if found.has_changed:
        warnings.warn(recorded.change_words(found, layout.base), CfexplainWarning, stacklevel=2)
    train, held_out, test = ([paths[index] for index in indices] for indices in found.indices.values())
    test_normals = [path for path in test if path not in defects]
    test_defects = [path for path in test if path in defects]
    kept = replace(
        layout, normals=(*train, *held_out), test_normals=tuple(test_normals),
        defects=tuple(defects[path] for path in test_defects),
    )
    return kept, (train, held_out, test_normals, test_defects)


def _is_grey(path: Path, bits: int | None) -> bool:
    """Three equal channels are grey too; a damaged file does not decide."""
    try:
        red, green, blue = read_image(path, (3, 64, 64), bits)
    except DataError:
        return True
    return bool((red == green).all() and (green == blue).all())


def _note_unused(layout: Layout, used: Sequence[Path], others: Sequence[Path]) -> None:
    """Say of every visible file below the layout's base that no part takes how many there are, and why."""
    known = {*used, *others, *(defect.mask for defect in layout.defects)}
    reasons = Counter(unused_reason(path, layout) for path in find_files(layout.base) if path not in known)
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        warnings.warn(f"not used of {layout.base}: {counted}", CfexplainWarning, stacklevel=2)


def _masks(layout: Layout, shape: ImageShape) -> Tensor | None:
    """(N, H, W) bool of all test files, False for normal ones; None without ground truth."""
    if not any(defect.mask for defect in layout.defects):
        return None
    num_normals = len(layout.test_normals)
    masks = np.zeros((num_normals + len(layout.defects), *shape[1:]), dtype=bool)
    for row, defect in enumerate(layout.defects, start=num_normals):
        assert defect.mask is not None, defect
        masks[row] = read_mask(defect.mask, defect.path, shape[1:])
    return torch.from_numpy(masks)


def _image_set(layout: Layout, files: Sequence[Path], cached: CachedImages) -> ImageSet:
    """All images, in the cache's order."""
    class_of = {defect.path: layout.class_names.index(defect.class_name) for defect in layout.defects}
    classes = torch.tensor([class_of.get(path, 0) for path in files])
    return ImageSet(
        images=torch.from_numpy(cached.images),
        labels=torch.where(classes == 0, NORMAL, ANOMALOUS),
        classes=classes,
        ids=tuple(image_id(path, layout.base) for path in files),
        is_mapped=cached.is_mapped,
    )
