"""The embedded default: coloured digits in Pillow's own font, letters as outlier exposure. Nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.checks import check_at_least
from cfexplain.data.datasets.coloured import ColouredDataset, PALETTE, plan_normals, plan_reference, plan_test, Planned
from cfexplain.data.reading.raw_images import numbered, RawImages
from cfexplain.data.rendering import cached_masks, DIGITS


@dataclass(frozen=True, kw_only=True)
class Glyphs(ColouredDataset):
    """Rendered digits in six colours."""

    colours = tuple(PALETTE)[:6]

    train_size: int
    test_size: int
    reference_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, train_size=20, test_size=4, reference_size=60)

    def planned(self) -> dict[str, Planned]:
        plans = {
            "train": plan_normals(self.rule, self.train_size),
            "test": plan_test(self.rule, self.test_size),
            "reference": plan_reference(self.rule, self.reference_size),
        }
        return {part: (self._rendered(part, plan), plan) for part, plan in plans.items()}

    def _rendered(self, part: str, plan: np.ndarray) -> RawImages:
        shapes = np.sort(plan // len(self.colours))
        characters = "".join(DIGITS[shape] for shape in shapes)
        return numbered(part, cached_masks(self.cache_dir, part, characters, self.seed), shapes)
