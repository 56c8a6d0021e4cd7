"""Randomness that depends on (seed, step) alone: a resumed run draws what the uninterrupted one would have drawn."""

from __future__ import annotations

import hashlib

from cfexplain.lazy import torch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from any numbers and words; near inputs give unrelated seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def step_generator(seed: int, step: int, stream: str = "", device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one training step; `stream` keeps independent uses apart."""
    return torch.Generator(device).manual_seed(derived_seed(seed, step, stream))
