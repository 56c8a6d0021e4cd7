"""What readers agree on, and the interval of few answers, by hand."""

import numpy as np
import pytest

from cfexplain.metrics.agreement import krippendorffs_alpha
from cfexplain.metrics.wilson import wilson_interval

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability". Section B: two observers, none missing.
MEG, OWEN = "aabbdcccedda", "babbbccceddd"
# Section C: four observers, a dot where one says nothing; of the last thing there is one answer.
FOUR = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def answers(*observers: str) -> np.ndarray:
    return np.array([[-1 if value == "." else ord(value) for value in observer] for observer in observers]).T


def test_alpha_of_two_observers_is_the_published_one():
    # 24 answers: a 4, b 6, c 6, d 6, e 2. Alike: 18 of 24; by chance (4*3 + 3*6*5 + 2*1) / (24*23) = 104/552
    assert krippendorffs_alpha(answers(MEG, OWEN)) == pytest.approx(1 - (6 / 24) / (1 - 104 / 552))
    assert krippendorffs_alpha(answers(MEG, OWEN)) == pytest.approx(0.692, abs=5e-4)


def test_alpha_with_missing_answers_is_the_published_one():
    # 40 answers that can be paired: 9, 13, 10, 5 and 3 of a value. Unlike: the 2nd thing 2, the 6th 4, the 8th 2 of 40
    by_hand = 1 - (8 / 40) / (1 - (9 * 8 + 13 * 12 + 10 * 9 + 5 * 4 + 3 * 2) / (40 * 39))
    found = krippendorffs_alpha(answers(*FOUR))
    assert found == pytest.approx(by_hand) and found == pytest.approx(0.743, abs=5e-4)


def test_alpha_knows_no_order_of_readers_nor_names_of_values():
    table = answers(*FOUR)
    renamed = np.where(table < 0, -1, 200 - table)
    assert krippendorffs_alpha(renamed[::-1, ::-1]) == pytest.approx(krippendorffs_alpha(table))


def test_alpha_of_two_who_never_agree_is_below_chance():
    # 4 answers of each of two values: by chance 1 - (4*3 + 4*3) / (8*7) = 4/7 unlike, and all are
    assert krippendorffs_alpha(answers("0101", "1010")) == pytest.approx(1 - 7 / 4)
    assert krippendorffs_alpha(answers("0101", "0101")) == 1.0


@pytest.mark.parametrize("observers", [("0101",), ("01..", "..01"), ("0000", "0000"), ("....", "....")])
def test_without_two_answers_or_two_values_there_is_no_alpha(observers):
    assert krippendorffs_alpha(answers(*observers)) is None


def test_wilson_by_hand():
    # z = 1.959964; 8 of 10: (0.8 + z^2/20 -+ z sqrt(0.016 + z^2/400)) / (1 + z^2/10) = (0.99207 -+ 0.31362) / 1.38415
    assert wilson_interval(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    low, high = wilson_interval(1.0, 7)  # all of seven: 1 / (1 + z^2/7), and no interval of width 0
    assert (low, high) == pytest.approx((1 / (1 + 1.959964**2 / 7), 1.0))


def test_wilson_is_symmetric_and_narrows():
    for share, count in ((0.0, 5), (0.2, 11), (0.5, 40)):
        low, high = wilson_interval(share, count)
        assert wilson_interval(1 - share, count) == pytest.approx((1 - high, 1 - low))
        wider = wilson_interval(share, count / 2)
        assert high - low < wider[1] - wider[0] and low - 1e-12 <= share <= high
