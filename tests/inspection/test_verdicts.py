"""The order of verdicts, and when two edits are the same change."""

import math

import pytest
import torch

from cfexplain.inspection.base import VERDICTS, Verdict
from cfexplain.inspection.verdicts import duplicates, same_changes, verdict_codes


def verdict(already_normal=False, flipped=True, survives=(True, True), distance=0.5, duplicate_of=-1):
    codes = verdict_codes(
        torch.tensor([already_normal]), torch.tensor([[flipped]]), torch.tensor([[survives]]),
        torch.tensor([[distance]]), torch.tensor([[duplicate_of]]),
    )  # fmt: skip
    return VERDICTS[codes.item()]


def test_the_first_that_holds_is_the_verdict():
    faults = dict(already_normal=True, flipped=False, survives=(True, False), distance=1.01, duplicate_of=0)
    for expected in VERDICTS[:-1]:
        assert verdict(**faults) is expected
        faults.pop(next(iter(faults)))
    assert verdict() is Verdict.ok


def test_the_limit_itself_is_on_the_manifold():
    assert verdict(distance=1.0) is Verdict.ok
    assert verdict(distance=math.nextafter(1.0, 2.0) + 1e-6) is Verdict.off_manifold


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ([40, 20, 0, 0], True),
        ([32, 16, 0, 0], True),  # 0.8 of it
        ([20, 10, 0, 0], False),  # half of it: a fainter change is another one
        ([36, 26, 4, 0], True),  # 15 degrees away
        ([26, 36, 0, 0], False),  # 28 degrees away, though no farther than 0.49 of their size
        ([-40, -20, 0, 0], False),
        ([0, 0, 40, 20], False),
        ([0, 0, 0, 0], False),
    ],
)
def test_same_change_by_hand(other, is_same):
    edits = torch.tensor([[40, 20, 0, 0], other]).float()
    assert same_changes(edits).tolist() == [[True, is_same], [is_same, True]]


def test_duplicates_name_the_first_earlier_concept():
    sources = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    counterfactuals = sources[:, None].repeat(1, 4, 1, 1, 1)
    counterfactuals[0, 0, 0] += 50  # redder; then brighter; then again redder, twice
    counterfactuals[0, 1] += 50
    counterfactuals[0, 2, 0] += 45
    counterfactuals[0, 3, 0] += 50
    found = duplicates(sources, counterfactuals)
    assert found[0].tolist() == [-1, -1, 0, 0]
    assert found[1].tolist() == [-1, 0, 0, 0]  # concepts that change nothing are the same
