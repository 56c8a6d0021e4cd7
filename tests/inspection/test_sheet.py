"""A sheet for people: what is drawn, what the key says, and what answers amount to, by hand."""

import json
from collections import Counter

import pytest
import torch

from cfexplain.errors import ConfigError, DataError
from cfexplain.files import write_json
from cfexplain.inspection.sheet import (
    KEY, OWN, REAL, Question, draw_alarms, draw_pairs, sheet_digest, sheet_key,
)
from cfexplain.inspection.sheet_answers import answer_meanings, answer_metrics, read_answers, read_key
from cfexplain.metrics.wilson import wilson_interval
from tests.inspection.sheets import LEVEL, pictures

def pairs_of(size=40, seed=0):
    return draw_pairs(*pictures(size), seed=seed)


def test_each_side_shows_what_the_key_says():
    pairs = pairs_of()
    for pair, row in zip(pairs, sheet_key(pairs)["pairs"], strict=True):
        number = int(pair.source.removeprefix("test/"))
        for side, pixels in zip(("left", "right"), pair.images, strict=True):
            assert pixels[1, 0, 0] == LEVEL[row[side]]
            assert row[side] == REAL or pixels[0, 0, 0] == number  # of this source
        if pair.question is Question.real:
            assert pair.anomaly is None and (row["left"] == REAL) != (row["right"] == REAL)
        else:
            assert pair.anomaly[1, 0, 0] == LEVEL["source"] and pair.anomaly[0, 0, 0] == number
            assert OWN in (row["left"], row["right"]) and REAL not in (row["left"], row["right"])
    assert len({pair.source for pair in pairs}) == 40
    reals = [int(pixels[0, 0, 0]) for pair in pairs for pixels in pair.images if pixels[1, 0, 0] == LEVEL[REAL]]
    assert len(set(reals)) == len(reals) == 20  # no picture is seen twice


@pytest.mark.parametrize("seed", range(5))
def test_methods_and_sides_are_even(seed):
    pairs = pairs_of(seed=seed)
    asked = Counter((pair.question, frozenset(pair.made_by)) for pair in pairs)
    assert [pair.question for pair in pairs] == [Question.real] * 20 + [Question.explains] * 20
    assert sorted(asked.values()) == [6, 7, 7, 10, 10]
    left = Counter((pair.question, frozenset(pair.made_by)) for pair in pairs if pair.made_by[0] in (REAL, OWN)
                   and (pair.question is Question.explains or pair.made_by[0] == REAL))
    assert all(abs(2 * left[case] - count) <= 1 for case, count in asked.items())
    assert sum(left.values()) == 20


def test_a_seed_draws_order_and_sides():
    first, again, other = (sheet_key(pairs_of(seed=seed)) for seed in (0, 0, 1))
    assert first == again and first["sheet"] != other["sheet"]
    for name in ("left", "source"):
        assert [row[name] for row in first["pairs"]] != [row[name] for row in other["pairs"]]
    sides = ["".join("L" if row["left"] == REAL else "R" for row in sheet_key(pairs_of(seed=seed))["pairs"][:20])
             for seed in range(20)]
    assert len(set(sides)) == 20 and {text[0] for text in sides} == {"L", "R"}
    assert not any("LR" * 5 in text or "LLLLLLLLLL" in text or "RRRRRRRRRR" in text for text in sides)  # no pattern


def test_the_digest_is_of_what_is_shown():
    pairs = pairs_of(6)
    digest = sheet_digest(pairs)
    assert sheet_digest(pairs_of(6)) == digest
    pairs[3].images[1, 2, 1, 1] += 1
    assert sheet_digest(pairs) != digest
    assert sheet_digest(pairs_of(6)[::-1]) != digest


def test_alarms_alone_are_drawn_each_once():
    logits = torch.arange(50.0)
    drawn = draw_alarms(logits, 9.0, 40, seed=0)
    assert sorted(drawn.tolist()) == list(range(10, 50)) != drawn.tolist()
    assert draw_alarms(logits, 9.0, 5, seed=0).tolist() == drawn[:5].tolist()
    with pytest.raises(ConfigError, match="num_sheet_pairs=41: each pair takes another image, and 40 raise an alarm"):
        draw_alarms(logits, 9.0, 41, seed=0)


def test_too_few_real_pictures_are_said():
    with pytest.raises(ConfigError, match="takes 20 normal test images, and there are 19"):
        draw_pairs(*pictures(40, num_normals=19), seed=0)


KEY_ROWS = [  # question, left, right
    ("real", REAL, OWN), ("real", OWN, REAL), ("real", OWN, REAL), ("real", REAL, "nearest"),
    ("explains", OWN, "nearest"), ("explains", "gradient", OWN),
]


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": question, "source": f"test/{n}", "left": left, "right": right}
            for n, (question, left, right) in enumerate(KEY_ROWS)]
    write_json(tmp_path / KEY, {"sheet": "0123456789abcdef", "pairs": rows})
    return tmp_path


def written(folder, name, sides, **changes):
    """sides: L, R or a dot for nothing, of each pair."""
    answers = [{"pair": number, "side": {"L": "left", "R": "right"}[side], "seconds": number + 1.5}
               for number, side in enumerate(sides) if side != "."]
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"sheet": "0123456789abcdef", "reader": name, "answers": answers} | changes))
    return file


def test_shares_and_agreement_by_hand(folder):
    files = [written(folder, "a", "RRRLLL"), written(folder, "b", "LL.RLR")]
    key = read_key(folder)
    metrics = answer_metrics(key, read_answers(files, key))
    assert metrics["num_readers"] == 2
    assert metrics["seconds_per_answer"] == 4.5  # the 6th of 1.5 1.5 2.5 2.5 3.5 4.5 4.5 5.5 5.5 6.5 6.5
    told = {  # name -> hits, answers, pairs; ours was taken for real by a in the 1st pair, by b in the 2nd
        "taken_for_real_cfexplain": (2, 5, 3), "taken_for_real_nearest": (1, 2, 1),
        "preferred_to_nearest": (2, 2, 1), "preferred_to_gradient": (1, 2, 1),
    }
    for name, (hits, answers, pairs) in told.items():
        assert metrics[name] == hits / answers
        assert (metrics[f"{name}_answers"], metrics[f"{name}_pairs"]) == (answers, pairs)
        assert (metrics[f"{name}_low"], metrics[f"{name}_high"]) == wilson_interval(hits / answers, pairs)
    # Three pairs with two answers, never the same, 3 left and 3 right: 1 - 1 / (18 / 30)
    assert metrics["krippendorffs_alpha_real"] == pytest.approx(-2 / 3)
    # Two pairs, the same in one, 3 left and 1 right: 1 - (2 / 4) / (6 / 12)
    assert metrics["krippendorffs_alpha_explains"] == pytest.approx(0.0)
    told |= dict.fromkeys(("num_readers", "seconds_per_answer", "krippendorffs_alpha_real",
                           "krippendorffs_alpha_explains"))
    ends = ("", "_low", "_high", "_pairs", "_answers")
    assert set(metrics) <= {name + end for name in told for end in ends}
    meanings = answer_meanings(metrics)
    assert all(meanings[key][0] for key in metrics if not key.endswith(("_low", "_high")))
    assert meanings["taken_for_real_cfexplain_pairs"] != meanings["taken_for_real_cfexplain"]


def test_what_nobody_answered_has_no_share(folder):
    key = read_key(folder)
    metrics = answer_metrics(key, read_answers([written(folder, "a", "L.....")], key))
    assert metrics["taken_for_real_cfexplain"] == 0.0 and metrics["preferred_to_nearest_answers"] == 0
    assert not [name for name in metrics if name.startswith("krippendorff")]
    assert "preferred_to_nearest" not in metrics and "preferred_to_nearest_low" not in metrics


ANSWER = {"pair": 0, "side": "left", "seconds": 1.0}
REFUSED = {
    "another sheet": ({"sheet": "f" * 16}, "answers another sheet"),
    "no reader": ({"reader": None}, "reader is None"),
    "no list": ({"answers": {"0": "left"}}, "answers is"),
    "an unknown pair": ({"answers": [{**ANSWER, "pair": 6}]}, "an unknown pair, 6: the sheet has 0 to 5"),
    "a pair below 0": ({"answers": [{**ANSWER, "pair": -1}]}, "an unknown pair, -1"),
    "a pair that is no number": ({"answers": [{**ANSWER, "pair": "0"}]}, "pair is '0'"),
    "a pair that is true": ({"answers": [{**ANSWER, "pair": True}]}, "an unknown pair, True"),
    "a pair twice": ({"answers": [ANSWER, ANSWER]}, "pair 0 is answered twice"),
    "no side": ({"answers": [{**ANSWER, "side": "both"}]}, "the side of pair 0 is 'both'"),
    "no time": ({"answers": [{**ANSWER, "seconds": float("nan")}]}, "the seconds of pair 0 are nan"),
    "endless": ({"answers": [{**ANSWER, "seconds": 10**400}]}, "the seconds of pair 0 are 1000"),
    "before it was shown": ({"answers": [{**ANSWER, "seconds": -1}]}, "the seconds of pair 0 are -1"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_answers_are_checked(folder, name):
    changes, words = REFUSED[name]
    with pytest.raises(DataError, match=words):
        read_answers([written(folder, "a", "LLLLLL", **changes)], read_key(folder))


def test_two_files_of_one_reader_are_refused(folder):
    files = [written(folder, "a", "LLL..."), written(folder, "b", "LLLRRR", reader="a")]
    with pytest.raises(DataError, match="a.json and .*b.json are of one reader"):
        read_answers(files, read_key(folder))


@pytest.mark.parametrize("row", [
    {"question": "which", "left": REAL, "right": OWN}, {"question": "real", "left": OWN, "right": "nearest"},
    {"question": "explains", "left": OWN, "right": OWN}, {"question": "explains", "left": OWN, "right": "mine"},
    {"question": "real", "left": REAL},
])
def test_a_damaged_key_is_said(tmp_path, row):
    write_json(tmp_path / KEY, {"sheet": "0" * 16, "pairs": [row]})
    with pytest.raises(DataError, match="sheet_key.json is damaged"):
        read_key(tmp_path)
    with pytest.raises(DataError, match=r"no sheet_key.json in .*sheet=true wrote"):
        read_key(tmp_path / "other")
