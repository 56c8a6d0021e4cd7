"""Classifiers for evaluation learn, repeat, and are kept; the feature space that FID and inspections share."""

from dataclasses import replace

import pytest
import torch

from cfexplain.data.batches import to_float
from cfexplain.metrics.classifiers import (
    RANDOM, NetworkRecipe, feature_space, fingerprint, train_classifier,
)
from cfexplain.types import ImageSet, Splits

RECIPE = NetworkRecipe(width=4, num_features=8, num_steps=40)
FEATURES = NetworkRecipe(width=4, num_features=8, num_steps=60)
CPU = torch.device("cpu")


def halves(seed, num=200):
    """Images lit on the left (0) or on the right (1), with noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(80, (num, 1, 16, 16), generator=rng, dtype=torch.uint8)
    targets = torch.randint(2, (num,), generator=rng)
    for image, target in zip(images, targets, strict=True):
        image[0, :, :8] += 100 * (1 - int(target))
        image[0, :, 8:] += 100 * int(target)
    return images, targets


def accuracy(classifier, images, targets):
    return (classifier(images / 127.5 - 1).argmax(dim=1) == targets).float().mean()


def test_learns_what_is_there_and_nothing_else():
    images, targets = halves(0)
    test = halves(1)
    assert accuracy(train_classifier(images, targets, 2, RECIPE, CPU), *test) > 0.95
    shuffled = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    assert 0.2 < accuracy(train_classifier(images, shuffled, 2, RECIPE, CPU), *test) < 0.8


def test_same_seed_same_classifier_whatever_the_global_generator_says():
    data = halves(0)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.random.get_rng_state()
        states.append(train_classifier(*data, 2, RECIPE, CPU).state_dict())
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = train_classifier(*data, 2, replace(RECIPE, seed=1), CPU).state_dict()
    assert not torch.equal(states[0]["head.weight"], other["head.weight"])


def test_cache_is_read_and_mended(tmp_path):
    data = halves(0)
    first = train_classifier(*data, 2, RECIPE, CPU, tmp_path).state_dict()
    (file,) = (tmp_path / "judges").iterdir()
    written = file.stat().st_mtime_ns
    again = train_classifier(*data, 2, RECIPE, CPU, tmp_path).state_dict()
    assert file.stat().st_mtime_ns == written
    assert all(torch.equal(first[name], again[name]) for name in first)

    file.write_bytes(file.read_bytes()[:200])
    mended = train_classifier(*data, 2, RECIPE, CPU, tmp_path).state_dict()
    assert all(torch.equal(first[name], mended[name]) for name in first)
    assert [path.name for path in (tmp_path / "judges").iterdir()] == [file.name]


def test_a_cache_file_that_runs_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    data = halves(0)
    train_classifier(*data, 2, RECIPE, CPU, tmp_path)
    (file,) = (tmp_path / "judges").iterdir()
    torch.save({"head.weight": Trap()}, file)
    train_classifier(*data, 2, RECIPE, CPU, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_classifier_read_from_the_cache_leaves_the_global_generator_alone(tmp_path):
    data = halves(0)
    train_classifier(*data, 2, RECIPE, CPU, tmp_path)
    before = torch.random.get_rng_state()
    train_classifier(*data, 2, RECIPE, CPU, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("what", ["image", "target", "recipe"])
def test_fingerprint_changes_with_data_and_recipe(what):
    images, targets = halves(0)
    before = fingerprint(images, targets, RECIPE)
    recipe = RECIPE
    if what == "image":
        images[3, 0, 2, 2] += 1
    elif what == "target":
        targets[0] = 1 - targets[0]
    else:
        recipe = replace(RECIPE, num_steps=41)
    assert fingerprint(images, targets, recipe) != before


def bars(count: int, kind: int) -> torch.Tensor:
    """(count, 1, 16, 16): a bright row, or a bright column, on noise."""
    images = torch.randint(60, (count, 1, 16, 16), generator=torch.Generator().manual_seed(kind), dtype=torch.uint8)
    for index, image in enumerate(images[:, 0]):
        (image if kind == 0 else image.T)[index % 16] = 220
    return images


@pytest.fixture(scope="module")
def splits() -> Splits:
    images = torch.cat([bars(80, 0), bars(80, 1)])
    classes = torch.arange(2).repeat_interleave(80)
    reference = ImageSet(images=images, labels=classes, classes=classes, ids=tuple(str(i) for i in range(160)))
    normals = reference.first(80)
    return Splits(
        train=normals, held_out=normals, exposure=None, test=reference, reference=reference,
        class_names=("row", "column"), factors=None,
    )


def test_classes_that_are_known_lie_apart(splits, tmp_path):
    space = feature_space(splits, FEATURES, tmp_path, "cpu")
    assert space.name == f"classifier-{fingerprint(splits.reference.images, splits.reference.classes, FEATURES)[:8]}"
    rows, columns = space(bars(40, 0)), space(bars(40, 1))
    assert rows.dtype == torch.float32 and rows.shape == (40, 8)
    within, across = torch.cdist(rows, rows).mean(), torch.cdist(rows, columns).mean()
    assert across > 2 * within


def test_features_are_those_of_the_network_in_any_batch(splits, tmp_path):
    space, images = feature_space(splits, FEATURES, tmp_path, "cpu"), bars(7, 0)
    torch.testing.assert_close(space(images), space.network.features(to_float(images)))
    torch.testing.assert_close(space(images)[3:4], space(images[3:4]))


def test_a_second_call_reads_the_network_from_the_cache(splits, tmp_path):
    first = feature_space(splits, FEATURES, tmp_path, "cpu")
    assert len(list((tmp_path / "judges").glob("*.pt"))) == 1
    again = feature_space(splits, replace(FEATURES), tmp_path, "cpu")
    assert torch.equal(first(bars(5, 1)), again(bars(5, 1)))


def test_one_class_leaves_the_network_as_it_is_drawn(splits, tmp_path):
    reference = replace(splits.reference, classes=torch.zeros(160, dtype=torch.long))
    one = replace(splits, reference=reference)
    first, again = (feature_space(one, FEATURES, tmp_path, "cpu") for _ in range(2))
    assert first.name == RANDOM and not list(tmp_path.rglob("*.pt"))
    assert torch.equal(first(bars(5, 1)), again(bars(5, 1)))
    other = feature_space(one, replace(FEATURES, seed=1), tmp_path, "cpu")
    assert not torch.equal(first(bars(5, 1)), other(bars(5, 1)))
