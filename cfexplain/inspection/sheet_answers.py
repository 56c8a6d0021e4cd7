"""What readers answered on a sheet: their files, held against its key, and what they amount to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfexplain.errors import DataError
from cfexplain.files import check_kinds, read_json
from cfexplain.inspection.sheet import KEY, OWN, Question, REAL, SIDES
from cfexplain.metrics.agreement import krippendorffs_alpha
from cfexplain.metrics.baselines import METHODS
from cfexplain.metrics.wilson import wilson_interval

KINDS = {"sheet": str, "reader": str, "answers": list[dict]}  # of a reader's file
ANSWER_KINDS = {"pair": int, "side": str, "seconds": float | int}
NOTHING = -1  # no answer
MAX_SECONDS = 1e9


@dataclass(frozen=True, kw_only=True)
class SheetKey:
    """file: where it stands; sheet: digest of what readers saw; pairs: by their numbers, question and both sides."""

    file: Path
    sheet: str
    pairs: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of one reader. sides: (N,) int64, index into SIDES or NOTHING; seconds: of each answer, in the file's order."""

    reader: str
    sides: np.ndarray
    seconds: list[float]


def read_key(folder: Path) -> SheetKey:
    """DataError where the run has made no sheet, or its key is damaged."""
    file = folder / KEY
    if not file.is_file():
        raise DataError(f"no {KEY} in {folder}; run= is the folder that cfexplain evaluate sheet=true wrote")
    values = read_json(file, {"sheet": str, "pairs": list[dict]})
    for pair in values["pairs"]:
        check_kinds(file, pair, {"question": str, **dict.fromkeys(SIDES, str)})
        made_by, wanted = {pair[side] for side in SIDES}, REAL if pair["question"] == Question.real else OWN
        if pair["question"] not in list(Question) or wanted not in made_by or len(made_by & {*METHODS, REAL}) != 2:
            raise DataError(f"{file} is damaged: a pair is {list(pair.values())!r:.60}")
    return SheetKey(file=file, sheet=values["sheet"], pairs=values["pairs"])


def read_answers(files: Sequence[Path], key: SheetKey) -> list[Answers]:
    """A reader a file; DataError where one is damaged, of another sheet, or of a reader who has another."""
    readers: dict[str, Path] = {}
    found = []
    for file in files:
        answers = _read(file, key)
        if answers.reader in readers:
            raise DataError(f"{readers[answers.reader]} and {file} are of one reader: give the newer one alone")
        readers[answers.reader] = file
        found.append(answers)
    return found


def _read(file: Path, key: SheetKey) -> Answers:
    values = read_json(file, KINDS)
    if values["sheet"] != key.sheet:
        raise DataError(f"{file} answers another sheet ({values['sheet']!r:.40}) than {key.file} ({key.sheet!r:.40})")
    sides, seconds = np.full(len(key.pairs), NOTHING), []
    for answer in values["answers"]:
        check_kinds(file, answer, ANSWER_KINDS)
        pair, side = answer["pair"], answer["side"]
        if isinstance(pair, bool) or not 0 <= pair < len(sides):
            raise DataError(f"{file} answers an unknown pair, {pair!r:.40}: the sheet has 0 to {len(sides) - 1}")
        if sides[pair] != NOTHING:
            raise DataError(f"{file} is damaged: pair {pair} is answered twice")
        if side not in SIDES:
            raise DataError(f"{file} is damaged: the side of pair {pair} is {side!r:.40}, wanted left or right")
        if not 0 <= answer["seconds"] < MAX_SECONDS:  # nan is neither
            raise DataError(f"{file} is damaged: the seconds of pair {pair} are {answer['seconds']!r:.40}")
        sides[pair] = SIDES.index(side)
        seconds.append(float(answer["seconds"]))
    return Answers(reader=values["reader"], sides=sides, seconds=seconds)


NAMES = {Question.real: "taken_for_real", Question.explains: "preferred_to"}
MEANINGS = {
    "num_readers": ("readers, one a file", ""),
    "seconds_per_answer": ("median time of an answer, seconds", ""),
    "taken_for_real": ("share of answers that took this method's picture for the real one", "0.5"),
    "preferred_to": (f"share of answers by which {OWN} explains the alarm better than this method", "1"),
    "pairs": ("its pairs with an answer: the n of the interval", ""),
    "answers": ("its answers, of all readers", ""),
    "krippendorffs_alpha": ("agreement of readers on the sides beyond chance", "1"),
}


def answer_metrics(key: SheetKey, readers: Sequence[Answers]) -> dict[str, float | str]:
    """taken_for_real_<method>, preferred_to_<method>, krippendorffs_alpha_<question>; what has no answers is left out.

    Intervals are Wilson's, with n the answered pairs: several answers to one pair are not independent, and to count
    them as one is never too bold about pairs. They say nothing of other readers.
    """
    sides = np.stack([answers.sides for answers in readers], axis=1)  # (N, readers)
    values: dict[str, float | str] = {"num_readers": len(readers)}
    if seconds := [second for answers in readers for second in answers.seconds]:
        values["seconds_per_answer"] = float(np.median(seconds))
    for question, method in itertools.product(Question, METHODS):
        pairs, hits = _pairs_of(key, question, method)
        if not pairs:
            continue
        name = f"{NAMES[question]}_{method}"
        is_answered = sides[pairs] != NOTHING
        num_answers, num_pairs = int(is_answered.sum()), int(is_answered.any(axis=1).sum())
        if num_answers:
            values[name] = float((sides[pairs] == np.array(hits)[:, None]).sum() / num_answers)
            values[f"{name}_low"], values[f"{name}_high"] = wilson_interval(values[name], num_pairs)
        values |= {f"{name}_pairs": num_pairs, f"{name}_answers": num_answers}
    for question in Question:
        rows = [number for number, pair in enumerate(key.pairs) if pair["question"] == question]
        alpha = krippendorffs_alpha(sides[rows])
        if alpha is not None:
            values[f"krippendorffs_alpha_{question}"] = alpha
    return values


def answer_meanings(metrics: dict[str, float | str]) -> dict[str, tuple[str, str]]:
    """Of each key, by what it starts or ends with."""
    meanings = {}
    for key in metrics:
        end = key.rpartition("_")[2]
        names = [end] if end in ("pairs", "answers") else [name for name in MEANINGS if key.startswith(name)]
        meanings |= {key: MEANINGS[name] for name in names}
    return meanings


def _pairs_of(key: SheetKey, question: Question, method: str) -> tuple[list[int], list[int]]:
    """The pairs that tell of the method, and of each the side that counts: its own, or OWN's where it is another's."""
    pairs, hits = [], []
    for number, pair in enumerate(key.pairs):
        made_by, other = [pair[side] for side in SIDES], REAL if question is Question.real else OWN
        if pair["question"] == question and method in made_by and method != other:
            pairs.append(number)
            hits.append(made_by.index(method if question is Question.real else OWN))
    return pairs, hits
