"""Known anomalies: just the wanted classes, never a normal one, and a pattern that matches nothing is named."""

import numpy as np
import pytest

from cfexplain.data.exposures.base import ExposureRequest
from cfexplain.data.exposures.supervised import Supervised
from cfexplain.data.datasets.glyphs import Glyphs
from cfexplain.data.datasets.mnist import Mnist
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import DataError

NAMES = ("green 1", "green 7", "blue 7", "green 17", "red 7")


def supervised(*classes: str) -> Supervised:
    return Supervised(limit=None, seed=0, classes=list(classes))


def request(classes: list[int] | None) -> ExposureRequest:
    others = None if classes is None else RawImages(
        np.arange(len(classes), dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 4, 4), np.uint8),
        np.array(classes), [f"train/{index}" for index in range(len(classes))],
    )
    return ExposureRequest(
        normals=np.full((1, 1, 4, 4), 255, np.uint8), learned=np.full((1, 1, 4, 4), 255, np.uint8), others=others,
        class_names=NAMES, cache_dir="unused",
    )


@pytest.mark.parametrize(("patterns", "ids"), [
    (["green 7"], ["train/1", "train/4"]),  # not 'green 17'
    (["green *"], ["train/1", "train/3", "train/4"]),
    (["blue 7", "green ?"], ["train/0", "train/1", "train/4"]),
    (["*"], ["train/0", "train/1", "train/2", "train/3", "train/4"]),
])
def test_just_the_wanted_classes(patterns, ids):
    found = supervised(*patterns).pictures(request([2, 1, 4, 3, 1]))
    assert list(found.ids) == ids
    assert [int(image[0, 0, 0]) for image in found.images] == [int(name[-1]) for name in ids]


@pytest.mark.parametrize("pattern", ["grene *", "green 1", "Green *"])
def test_a_pattern_without_an_anomalous_class_is_named(pattern):
    with pytest.raises(DataError) as caught:  # class 0, 'green 1', is normal: none of it is among the others
        supervised("blue 7", pattern).pictures(request([1, 2, 4]))
    assert repr(pattern) in str(caught.value) and "green 7, blue 7, red 7" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_classes_and_no_anomalies_are_said():
    with pytest.raises(ValueError, match="^classes is empty"):
        supervised()
    with pytest.raises(DataError, match="no anomalous training images"):
        supervised("*").pictures(request(None))


def test_green_glyphs_are_green_anomalies_and_no_more(tmp_path):
    spec = Glyphs(
        cache_dir=str(tmp_path), held_out_fraction=0.1, seed=0, normal=["1"], anomalous=None, normal_colours=["red"],
        train_size=40, test_size=20, reference_size=240,
    )
    splits = spec.load(supervised("green *"))
    exposure, reference = splits.exposure, splits.reference
    known = dict(zip(reference.ids, reference.classes.tolist(), strict=True))
    names = {splits.class_names[known[image_id]] for image_id in exposure.ids}
    assert names == {f"green {digit}" for digit in "023456789"}
    assert len(exposure) == 240 // 60 * 9
    ink = exposure.images.float().mean(dim=(0, 2, 3))  # red, green, blue
    assert ink[1] > 5 * ink[0] and ink[1] > 5 * ink[2]


def test_digits_of_mnist(small_mnist, fields):
    splits = Mnist(**fields).load(supervised("7", "0"))
    assert len(splits.exposure) == 120 and set(splits.exposure.labels.tolist()) == {1}
    assert not set(splits.exposure.ids) & (set(splits.train.ids) | set(splits.held_out.ids))
    known = dict(zip(splits.reference.ids, splits.reference.classes.tolist(), strict=True))
    assert {known[image_id] for image_id in splits.exposure.ids} == {0, 7}
