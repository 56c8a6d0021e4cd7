"""No outlier exposure: for a detector that learns from normal images alone."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec


@dataclass(frozen=True, kw_only=True)
class Nothing(ExposureSpec):
    """The generator needs anomalous sources, so this goes with stage=detector."""

    provides_images = False

    def pictures(self, request: ExposureRequest) -> None:
        return None
