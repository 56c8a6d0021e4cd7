"""Pseudo-anomalies of several kinds, in equal shares."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.data.exposures.base import PseudoAnomalies
from cfexplain.lazy import Tensor, torch


@dataclass(frozen=True, kw_only=True)
class Mixed(PseudoAnomalies):
    """kinds: exposures that are made of normal images, by any name. Their own `limit` and `seed` are not used."""

    kinds: dict[str, PseudoAnomalies]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds:
            raise ValueError("kinds must name at least one kind, like confetti")

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each kind takes a part of the batch, whose images are drawn at random."""
        parts = images.tensor_split(len(self.kinds))
        return torch.cat([kind.draw(part, generator) for kind, part in zip(self.kinds.values(), parts) if len(part)])
