"""What a network of somebody else expects and gives, as its owner declares it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum


class Score(Enum):
    number = "number"
    probability = "probability"


@dataclass(frozen=True, kw_only=True)
class Reading(ABC):
    """The part of detector=external that external_network.py goes by.

    height, width: images are resized to this, which lets gradients through; null: they stay as they are.
    channels:    1 or 3, what the network expects; grey is repeated, colour becomes its brightness. null: as they are.
    value_range: what black and white are to the network.
    mean, std:   taken off and divided by after that, a number for each channel or one for all; null: neither.
    output:      key, field or position of the score where the network gives several values; null: it gives one.
    class_index: of the anomalous class where the network gives (N, classes) logits or probabilities.
    score:       `number`: a logit, a distance or any real number; `probability`: its logit is taken.
    batch_size:  images the network gets at a time where no gradient is wanted.
    """

    height: int | None
    width: int | None
    channels: int | None
    value_range: tuple[float, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    output: str | None
    class_index: int | None
    score: Score
    batch_size: int

    def __post_init__(self) -> None:
        self._check_input()
        if self.class_index is not None and self.class_index < 0:
            raise ValueError(f"class_index must be >= 0, got {self.class_index}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")

    def _check_input(self) -> None:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width: give both or neither")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1, 3 or null, got {self.channels}")
        if len(self.value_range) != 2 or self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range must be [black, white], like [0,1], got {list(self.value_range)}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: give both or neither")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in {1, self.channels or len(values)}:
                raise ValueError(f"{name} must have 1 or {self.channels} values, got {len(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be > 0, got {list(self.std)}")

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the network comes from, for messages."""
