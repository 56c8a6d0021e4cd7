"""Letters in Pillow's own font: exposure for digits, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.data.exposures.base import exposure_images, ExposureRequest, ExposureSpec
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.data.rendering import cached_masks, LETTERS

NUM_LETTERS = 12_000


@dataclass(frozen=True, kw_only=True)
class Letters(ExposureSpec):
    """Grey 28x28; `limit` of them are drawn, 12,000 where it is null."""

    def pictures(self, request: ExposureRequest) -> RawImages:
        characters = "".join(np.resize(list(LETTERS), self.limit or NUM_LETTERS))
        return exposure_images(cached_masks(request.cache_dir, "letters", characters, self.seed))
