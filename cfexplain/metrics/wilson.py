"""The interval of a share of few things, also where it is 0 or 1: there a bootstrap has none."""

from __future__ import annotations

import math
from statistics import NormalDist

from cfexplain.metrics.bootstrap import LEVEL


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent things (Wilson, 1927)."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
