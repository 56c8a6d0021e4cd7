"""What a dataset is: a spec with checked values, and `load`, which turns files into Splits.

Torch loads inside `load`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cfexplain.data.exposures.base import ExposureSpec
from cfexplain.lazy import Tensor, torch
from cfexplain.types import Splits


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(ABC):
    """A dataset with its normal rule. Raise ValueError in `__post_init__` for values out of range.

    cache_dir:         where rendered or converted images are kept; outside a run folder, only this is written to.
    held_out_fraction: share of the normal training images kept for calibration and selection.
    seed:              of hold-out, limits and orders.
    """

    cache_dir: str
    held_out_fraction: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must lie between 0 and 1, got {self.held_out_fraction}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")

    @property
    @abstractmethod
    def slug(self) -> str:
        """Name for folders: dataset and normal set, of [a-z0-9_-] only, e.g. 'mnist-8_9'."""

    @abstractmethod
    def load(self, exposure: ExposureSpec) -> Splits:
        """Read, or render, the images. DataError where a file is missing or damaged."""


def to_float(images: Tensor) -> Tensor:
    """uint8 (..., H, W) in 0..255 -> float32 in [-1, 1], on the same device."""
    return images.float().div_(127.5).sub_(1)


def rows(images: Tensor, indices: Tensor, device: torch.device) -> Tensor:
    """The images at (M,) indices, gathered where they lie and then brought to the device."""
    return images[indices.to(images.device)].to(device)


def to_uint8(images: Tensor) -> Tensor:
    """float (..., H, W) in [-1, 1] -> uint8, rounded and clamped."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).byte()
