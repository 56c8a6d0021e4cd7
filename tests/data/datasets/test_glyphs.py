"""Glyphs: every image obeys the rule, measured from its pixels; splits are apart; same seed, same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfexplain.data.exposures.letters import Letters
from cfexplain.data.datasets.glyphs import Glyphs
from cfexplain.data.rendering import LETTERS
from cfexplain.types import FactorRule, ImageSet, Splits

LETTERS_OF_SEED_0 = Letters(limit=200, seed=0)


def make_spec(tmp_path, **changes) -> Glyphs:
    fields = {
        "cache_dir": str(tmp_path / "cache"),
        "held_out_fraction": 0.1,
        "normal": ["1"],
        "anomalous": None,
        "normal_colours": ["red"],
        "train_size": 400,
        "test_size": 200,
        "reference_size": 240,
        "seed": 0,
    }
    return Glyphs(**fields | changes)


def dominant_colours(images: torch.Tensor, rule: FactorRule) -> np.ndarray:
    """Index of the palette colour nearest to each image's summed ink, scaled to the brightest channel."""
    inks = images.double().sum(dim=(2, 3))
    inks = 255 * inks / inks.amax(dim=1, keepdim=True)
    return torch.cdist(inks, torch.tensor(rule.palette, dtype=torch.float64)).argmin(dim=1).numpy()


def pixels(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


@pytest.mark.parametrize(
    ("normal", "colours"),
    [("1", ["red"]), ("38", ["blue"]), ("0", ["cyan", "yellow"]), ("92", ["green", "magenta"])],
)
def test_pixels_obey_the_rule(tmp_path, normal, colours):
    splits = make_spec(tmp_path, normal=list(normal), normal_colours=colours).load(LETTERS_OF_SEED_0)
    rule = splits.factors
    for images in (splits.train, splits.held_out, splits.test, splits.reference):
        seen = dominant_colours(images.images, rule)
        names = [splits.class_names[index] for index in images.classes]
        assert [Glyphs.colours[colour] for colour in seen] == [name.split()[0] for name in names]
        is_normal = [name.split()[0] in colours or name.split()[1] in normal for name in names]
        assert [label == 0 for label in images.labels.tolist()] == is_normal
    assert not splits.train.labels.any() and not splits.held_out.labels.any()
    exposure_colours = {Glyphs.colours[colour] for colour in dominant_colours(splits.exposure.images, rule)}
    assert exposure_colours == set(Glyphs.colours) - set(colours)
    assert (splits.exposure.labels == 1).all() and (splits.exposure.classes == -1).all()


def test_both_kinds_of_normals_are_half_of_train_and_held_out(tmp_path):
    splits = make_spec(tmp_path).load(LETTERS_OF_SEED_0)
    for images in (splits.train, splits.held_out, splits.test_normals):
        is_red = images.classes % 6 == 0
        assert is_red.double().mean() == 0.5
        assert (images.classes[~is_red] // 6 == 1).all()  # not red: then a 1
    everyone = torch.cat([splits.train.classes, splits.held_out.classes])
    assert torch.bincount(everyone[everyone % 6 == 0] // 6).tolist() == [20] * 10  # 200 red ones over ten digits
    assert torch.bincount(everyone[everyone % 6 != 0] % 6).tolist() == [0] + [40] * 5


def test_sizes_and_balance(tmp_path):
    splits = make_spec(tmp_path).load(LETTERS_OF_SEED_0)
    sizes = [len(s) for s in (splits.train, splits.held_out, splits.exposure, splits.test, splits.reference)]
    assert sizes == [360, 40, 200, 200, 240]
    assert splits.test.labels.sum() == 100
    assert torch.bincount(splits.reference.classes).tolist() == [4] * 60
    assert torch.bincount(splits.test_anomalies.classes).max() <= 3  # 45 anomalous classes share 100 images


def test_no_image_and_no_id_is_in_two_splits(tmp_path):
    splits = make_spec(tmp_path).load(LETTERS_OF_SEED_0)
    sets = [splits.train, splits.held_out, splits.exposure, splits.test, splits.reference]
    total = sum(len(images) for images in sets)
    assert len(set().union(*(pixels(images) for images in sets))) == total
    assert len(set().union(*(images.ids for images in sets))) == total


def test_a_seed_gives_its_images_again_and_another_seed_others(tmp_path):
    def signature(splits: Splits) -> list:
        sets = (splits.train, splits.held_out, splits.exposure, splits.test, splits.reference)
        return [(images.ids, images.images.numpy().tobytes(), images.classes.tolist()) for images in sets]

    first = signature(make_spec(tmp_path).load(LETTERS_OF_SEED_0))
    assert signature(make_spec(tmp_path).load(LETTERS_OF_SEED_0)) == first  # from the cache
    assert signature(make_spec(tmp_path / "other").load(LETTERS_OF_SEED_0)) == first  # rendered again
    other = make_spec(tmp_path, seed=1).load(LETTERS_OF_SEED_0)
    assert not pixels(other.train) & pixels(make_spec(tmp_path).load(LETTERS_OF_SEED_0).train)


def test_the_colours_share_the_cached_pictures(tmp_path):
    make_spec(tmp_path).load(LETTERS_OF_SEED_0)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache/glyphs").iterdir()}
    make_spec(tmp_path, normal_colours=["blue"]).load(LETTERS_OF_SEED_0)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache/glyphs").iterdir()}
    assert {name: after[name] for name in files} == files  # read, not written again
    # Half of train is of normal shape whatever the colour, so a change of colour needs no new picture there either.
    assert len(after) == len(files) == 4


def test_letters_that_pass_for_digits_are_left_out():
    assert not set(LETTERS) & set("OoQDIiljJZzSsbGBgq")
    assert len(set(LETTERS)) == len(LETTERS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normal": ["11"]}, "no class '11'"),
        ({"normal": []}, "empty"),
        ({"normal": ["1", "1"]}, "twice"),
        ({"normal": list("0123456789")}, "all 10 classes"),
        ({"normal_colours": ["rad"]}, "Did you mean red"),
        ({"normal_colours": []}, "at least one"),
        ({"normal_colours": list(Glyphs.colours)}, "no anomaly is left"),
        ({"normal_colours": ["white"]}, "no colour 'white'"),
        ({"train_size": 0}, "train_size"),
        ({"held_out_fraction": 1.0}, "held_out_fraction"),
        ({"seed": -1}, "seed"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        make_spec(tmp_path, **changes)


def test_slug(tmp_path):
    assert make_spec(tmp_path).slug == "glyphs-red-1"
    assert make_spec(tmp_path, normal=["9", "8"], normal_colours=["cyan", "red"]).slug == "glyphs-red_cyan-8_9"
