"""MVTec AD (Bergmann et al., 2019): defects of fifteen objects and textures, with a mask of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cfexplain.data.datasets.folder import FolderDataset
from cfexplain.data.reading.folder_layout import find_layout, Layout
from cfexplain.errors import DataError, did_you_mean

CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
GREY = ("grid", "screw", "zipper")
OFFICIAL_FOLDER = "mvtec_anomaly_detection"  # what the archive of the whole set unpacks to


@dataclass(frozen=True, kw_only=True)
class Mvtec(FolderDataset):
    category: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.category not in CATEGORIES:
            hint = did_you_mean(self.category, CATEGORIES)
            raise ValueError(f"category must be one of {', '.join(CATEGORIES)}, got {self.category!r}.{hint}")

    @property
    def slug(self) -> str:
        return f"mvtec-{self.category}"

    def num_channels(self, normals: Sequence[Path]) -> int:
        return self.channels or (1 if self.category in GREY else 3)

    def layout(self, root: Path) -> Layout:
        folders = [root / self.category, root / OFFICIAL_FOLDER / self.category]
        if root.name == self.category:
            folders.append(root)
        folder = next((folder for folder in folders if os.path.isdir(folder / "train")), None)
        if folder is None:
            raise DataError(f"no folder {self.category}/train in {self.root}. {self.advice}")
        layout = find_layout(folder)
        if not layout.test_normals or not layout.defects:
            raise DataError(f"{layout.base}/test lacks good or every defect. {self.advice}")
        return layout

    @property
    def advice(self) -> str:
        return (
            f"Get MVTec AD from the site of MVTec, unpack it, and set dataset.root to the folder that holds "
            f"{self.category}/, or to a .zip of it."
        )
