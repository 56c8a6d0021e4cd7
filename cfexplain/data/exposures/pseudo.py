"""Pseudo-anomalies: normal training images with something done to them, where there are no natural outliers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.reading.pictures import Pictures
from cfexplain.data.splitting import numbered


@dataclass(frozen=True, kw_only=True)
class PseudoAnomalies(ExposureSpec):
    """`limit` images are made, as many as there are normal ones where it is null; held-out images take no part."""

    is_like_dataset = True

    def pictures(self, request: ExposureRequest) -> Pictures:
        normals = request.learned
        rng = np.random.default_rng([self.seed, 3])
        count = self.limit or len(normals)
        sources = np.resize(rng.permutation(len(normals)), count)
        images = np.empty((count, *normals.shape[1:]), dtype=np.uint8)
        for image, source in zip(images, sources, strict=True):
            image[:] = self.altered(normals[source], rng)
        return Pictures(images, np.full(count, -1), numbered("exposure", range(count)))

    @abstractmethod
    def altered(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(C, H, W) uint8, one normal image -> the same shape, no longer normal."""
