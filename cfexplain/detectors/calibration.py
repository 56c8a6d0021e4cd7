"""Which way an external score points, and its scale, from held-out normal images.

phi = sigmoid((s - centre) / scale) with centre the 95 % quantile of the held-out normals' scores, where phi is 0.5, and
scale such that their median has phi = 0.1: (q95 - q50) / log 9. The logit does not saturate, so it has a gradient
however far an image lies (external.py). Where a low score is the anomalous one, centre stays a score and scale is
negative.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cfexplain.data.exposures.cutpaste import paste
from cfexplain.detectors.external import HigherIs
from cfexplain.errors import CfexplainWarning, DataError

CENTRE_QUANTILE, MEDIAN_LOGIT = 0.95, math.log(9)  # phi of the median normal is 0.1
CLEAR = 0.1  # how far the AuROC must be from 0.5 to tell a direction
TYPE_IT = "say it: detector.higher_is=anomalous or detector.higher_is=normal"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """centre: a raw score; scale: raw score per unit of the logit, negative where a low score is anomalous."""

    centre: float
    scale: float


def calibrated(normals: Tensor, is_higher_anomalous: bool, source: str) -> Calibration:
    """From the raw scores (M,) of held-out normals. DataError where they do not vary."""
    sign = 1.0 if is_higher_anomalous else -1.0
    scores = sign * normals.double()
    centre = scores.quantile(CENTRE_QUANTILE).item()
    spread = centre - scores.median().item()
    least = 1e-6 * float(scores.abs().max())
    if spread <= least:  # more than half of them share the highest score, or nearly
        spread = scores.std().item()
    if spread <= least:
        raise DataError(f"{source} gives all {len(normals)} held-out normal images the same score ({normals[0]:.4g}), "
                        "so there is no threshold to find; let it give its score before it is rounded or clamped")
    return Calibration(centre=sign * centre, scale=sign * spread / MEDIAN_LOGIT)


def is_higher_anomalous(normals: Tensor, anomalies: Tensor, higher_is: HigherIs, source: str, of_what: str) -> bool:
    """From raw scores (M,) and (N,). `auto`: the AuROC decides, or DataError where it is not clear.

    of_what: the anomalies' name in messages.
    """
    found = share_of_pairs(normals, anomalies)
    said = f"{source} scores {of_what} above held-out normal images in {found:.0%} of the pairs"
    if higher_is is HigherIs.auto:
        if abs(found - 0.5) < CLEAR:
            raise DataError(f"{said}, which tells no direction; {TYPE_IT}, or check detector.value_range, mean and std")
        return found > 0.5
    wanted = higher_is is HigherIs.anomalous
    if (found - 0.5) * (1 if wanted else -1) < -CLEAR:
        message = f"{said}, and detector.higher_is={higher_is.value} says otherwise"
        warnings.warn(message, CfexplainWarning, stacklevel=2)
    return wanted


def share_of_pairs(low: Tensor, high: Tensor) -> float:
    """(M,), (N,) -> the share of pairs in which `high` is higher, ties counting half: the AuROC."""
    difference = high.double()[:, None] - low.double()[None]
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()


def pseudo_anomalies(normals: Tensor, seed: int) -> Tensor:
    """(N, C, H, W) uint8 normals -> the same, each with a third of itself inverted and pasted at another place."""
    rng = np.random.default_rng([seed, 4])
    height, width = (max(1, size // 3) for size in normals.shape[2:])
    made = []
    for image in normals.numpy():
        top, left = rng.integers(image.shape[1] - height + 1), rng.integers(image.shape[2] - width + 1)
        made.append(paste(image, 255 - image[:, top : top + height, left : left + width], 0.0, rng))
    return torch.from_numpy(np.stack(made))
