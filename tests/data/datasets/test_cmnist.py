"""Colored-MNIST: the rule seen in the pixels, the grey digits kept, sizes as large as balance allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfexplain.data.datasets.cmnist import Cmnist
from cfexplain.data.exposures.none import Nothing
from cfexplain.data.datasets.mnist import Mnist
from cfexplain.errors import DataError


@pytest.fixture
def coloured(fields):
    return fields | {"normal_colours": ["red"], "test_limit": None}


def colours_seen(images: torch.Tensor, palette) -> list[int]:
    inks = images.double().sum(dim=(2, 3))
    inks = 255 * inks / inks.amax(dim=1, keepdim=True)
    return torch.cdist(inks, torch.tensor(palette, dtype=torch.float64)).argmin(dim=1).tolist()


@pytest.mark.parametrize(
    ("normal", "colours"), [(["1"], ["red"]), (["5", "7"], ["white"]), (["0"], ["blue", "yellow"])]
)
def test_pixels_obey_the_rule(small_mnist, coloured, normal, colours, letters):
    splits = Cmnist(**coloured | {"normal": normal, "normal_colours": colours}).load(letters)
    grey = {"train": {}, "test": {}}
    grey_fields = {key: coloured[key] for key in coloured if key not in ("normal_colours", "test_limit")}
    plain = Mnist(**grey_fields).load(letters)
    for images in (plain.reference, plain.test):
        for name, image, digit in zip(images.ids, images.images, images.classes.tolist(), strict=True):
            grey["test" if name.startswith("test") else "train"][int(name.split("/")[1])] = (image[0], digit)
    for images in (splits.train, splits.held_out, splits.test, splits.reference):
        colours_found = colours_seen(images.images, splits.factors.palette)
        for row in range(len(images)):
            colour, digit = splits.class_names[images.classes[row]].split()
            assert Cmnist.colours[colours_found[row]] == colour
            assert (images.labels[row] == 0) == (colour in colours or digit in normal)
            part, number = images.ids[row].split("/")
            mask, true_digit = grey["test" if part == "test" else "train"][int(number)]
            assert int(digit) == true_digit
            brightest = images.images[row].amax(dim=0).float()
            assert torch.corrcoef(torch.stack([brightest.flatten(), mask.float().flatten()]))[0, 1] > 0.999
    assert not splits.train.labels.any() and not splits.held_out.labels.any()
    assert not set(splits.train.ids) & set(splits.held_out.ids)
    found = {Cmnist.colours[colour] for colour in colours_seen(splits.exposure.images, splits.factors.palette)}
    assert not found & set(colours)


def test_sizes_are_the_largest_balanced_ones(small_mnist, coloured, letters):
    splits = Cmnist(**coloured).load(letters)
    everyone = torch.cat([splits.train.classes, splits.held_out.classes])
    is_red = everyone % 7 == 0
    # n red ones take n / 10 of the 60 ones, n others take n: 1.1 n <= 60 leaves n = 54 (5 or 6 red of each digit).
    assert abs(is_red.sum() - 54) <= 1 and abs((~is_red).sum() - 54) <= 1
    assert torch.bincount(everyone // 7)[1] in (59, 60)
    assert len(set(splits.train.ids + splits.held_out.ids)) == len(everyone)
    assert abs(splits.test.labels.double().mean() - 0.5) < 0.02


def test_limits(small_mnist, coloured, letters):
    splits = Cmnist(**coloured | {"train_limit": 40, "test_limit": 20, "reference_limit": 70}).load(letters)
    assert [len(splits.train) + len(splits.held_out), len(splits.test), len(splits.reference)] == [40, 20, 70]
    assert torch.bincount(splits.reference.classes).tolist() == [1] * 70


def test_no_exposure(small_mnist, coloured):
    assert Cmnist(**coloured).load(Nothing(limit=None, seed=0)).exposure is None


def test_a_file_without_ones_is_a_data_error(small_mnist, coloured, write_idx, letters):
    write_idx(small_mnist / "MNIST/raw/train-labels-idx1-ubyte.gz", np.tile([0, 2, 3, 4, 5], 120))
    with pytest.raises(DataError, match="too few"):
        Cmnist(**coloured).load(letters)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normal_colours": ["orange"]}, "no colour 'orange'"),
        ({"normal_colours": list(Cmnist.colours)}, "no anomaly is left"),
        ({"normal": []}, "empty"),
        ({"test_limit": 1}, "test_limit"),
    ],
)
def test_values_that_cannot_be_are_refused(coloured, changes, words):
    with pytest.raises(ValueError, match=words):
        Cmnist(**coloured | changes)


def test_slug(coloured):
    assert Cmnist(**coloured).slug == "cmnist-red-1"


def test_the_real_mnist(packs, coloured, letters):
    splits = Cmnist(**coloured | {"root": str(packs / "mnist"), "test_limit": 4000}).load(letters)
    assert len(splits.train) + len(splits.held_out) == 12259
    assert len(splits.test) == 4000 and splits.test.labels.sum() == 2000
    assert colours_seen(splits.test.images, splits.factors.palette) == (splits.test.classes % 7).tolist()
