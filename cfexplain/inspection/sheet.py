"""A sheet for people: pairs of pictures in a drawn order, each on a drawn side, and a key that says which is which.

Nobody who reads a sheet needs to know how a picture came about, and the page does not say it: the key is another file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import Any

from cfexplain.engine.seeding import derived_seed
from cfexplain.errors import ConfigError
from cfexplain.lazy import Tensor, torch
from cfexplain.metrics.baselines import METHODS
from cfexplain.types import ImageSet

KEY = "sheet_key.json"
OWN = METHODS[0]
REAL = "real"  # in the key: the side that no method has made
SIDES = ("left", "right")
DIGEST_LENGTH = 16


class Question(StrEnum):
    """real: a counterfactual beside a normal test image. explains: two counterfactuals of one anomaly."""

    real = "real"
    explains = "explains"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """images: (2, C, H, W) uint8, left and right; made_by: how each came about, a method or REAL.

    anomaly: (C, H, W) uint8, what is explained, where it is shown; source: its id.
    """

    question: Question
    images: Tensor
    made_by: tuple[str, str]
    anomaly: Tensor | None
    source: str


def draw_alarms(logits: Tensor, threshold: float, num_pairs: int, seed: int) -> Tensor:
    """(num_pairs,) int64: images that raise an alarm, in a drawn order, none twice. logits: (N,)."""
    alarms = (logits > threshold).nonzero().flatten()
    if len(alarms) < num_pairs:
        raise ConfigError(
            f"num_sheet_pairs={num_pairs}: each pair takes another image, and {len(alarms)} raise an alarm; ask for "
            "fewer pairs"
        )
    return alarms[_shuffled(len(alarms), seed, "alarms")[:num_pairs]]


def draw_pairs(sources: ImageSet, counterfactuals: Mapping[str, Tensor], normals: ImageSet, seed: int) -> list[Pair]:
    """A pair of each of N sources: half ask which is real, of all methods in turn, and half which explains.

    counterfactuals: method -> (N, C, H, W) uint8, OWN among them, which each other method is held against. Either kind
    of question stands in a block, so that the explained anomalies do not teach what a counterfactual looks like.
    """
    num_real = len(sources) // 2
    if len(normals) < num_real:
        raise ConfigError(f"num_sheet_pairs={len(sources)} takes {num_real} normal test images, and there are "
                          f"{len(normals)}; ask for fewer pairs")
    others = [method for method in counterfactuals if method != OWN]
    # Those of a kind stand together, so that sides that are taken in turn are even in each.
    cases = sorted((Question.real, method, REAL) for method in islice(cycle(counterfactuals), num_real))
    cases += sorted((Question.explains, OWN, method) for method in islice(cycle(others), len(sources) - num_real))
    pictures = {**counterfactuals, REAL: normals.images[_shuffled(len(normals), seed, "normals")[:num_real]]}
    first = int(_shuffled(2, seed, "sides")[0])
    pairs = []
    for row, (question, *made_by) in enumerate(cases):
        sides = made_by if (row + first) % 2 else made_by[::-1]
        pairs.append(Pair(
            question=question,
            images=torch.stack([pictures[method][row] for method in sides]),
            made_by=(sides[0], sides[1]),
            anomaly=sources.images[row] if question is Question.explains else None,
            source=sources.ids[row],
        ))
    order = _shuffled(len(pairs), seed, "order").tolist()
    return sorted((pairs[place] for place in order), key=lambda pair: pair.question is not Question.real)


def sheet_digest(pairs: Sequence[Pair]) -> str:
    """Of all that a reader is shown, in its order: answers count for this sheet alone."""
    digest = hashlib.sha256()
    for pair in pairs:
        for pixels in (*pair.images, *([] if pair.anomaly is None else [pair.anomaly])):
            digest.update(f"{pair.question} {tuple(pixels.shape)}".encode())
            digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:DIGEST_LENGTH]


def sheet_key(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The content of KEY; a pair's number is its place in the list."""
    rows = [{"question": str(pair.question), "source": pair.source, **dict(zip(SIDES, pair.made_by, strict=True))}
            for pair in pairs]
    return {"sheet": sheet_digest(pairs), "pairs": rows}


def _shuffled(size: int, seed: int, stream: str) -> Tensor:
    """(size,) int64."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(derived_seed(seed, "sheet", stream)))
