"""Your own images: a folder, or a .zip of one, whose sub-folders say what is normal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfexplain.data.datasets.folder_dataset import FolderDataset
from cfexplain.data.reading.folder_layout import find_layout, Layout

MAX_SLUG = 40


@dataclass(frozen=True, kw_only=True)
class Folder(FolderDataset):
    """train/good with test/<class>, or normal with anomalous, or normal images alone (see folder_layout).

    test_fraction: share of the normal images kept for testing where no folder holds normal test images.
    """

    test_fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.root.strip():
            raise ValueError("root is empty: name a folder of images or a .zip of one")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie between 0 and 1, got {self.test_fraction}")

    @property
    def slug(self) -> str:
        name = Path(self.root).expanduser().resolve().name.removesuffix(".zip").lower()
        cleaned = "".join(letter if letter.isascii() and letter.isalnum() or letter in "_-" else "_" for letter in name)
        return f"folder-{cleaned[:MAX_SLUG] or 'images'}"

    def layout(self, root: Path) -> Layout:
        return find_layout(root).with_test_normals(self.test_fraction, self.seed)
