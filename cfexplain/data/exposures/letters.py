"""Letters in Pillow's own font: exposure for digits, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.reading.pictures import Pictures
from cfexplain.data.rendering import cached_masks, LETTERS
from cfexplain.data.splitting import numbered

NUM_LETTERS = 12_000


@dataclass(frozen=True, kw_only=True)
class Letters(ExposureSpec):
    """Grey 28x28; `limit` of them are drawn, 12,000 where it is null."""

    def pictures(self, request: ExposureRequest) -> Pictures:
        characters = "".join(np.resize(list(LETTERS), self.limit or NUM_LETTERS))
        images = cached_masks(request.cache_dir, "letters", characters, self.seed)
        return Pictures(images, np.full(len(images), -1), numbered("exposure", range(len(images))))
