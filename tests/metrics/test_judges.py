"""Judges learn, repeat, and are kept."""

from dataclasses import replace

import pytest
import torch

from cfexplain.metrics.judges import JudgeRecipe, cached_classifier, fingerprint, train_classifier

RECIPE = JudgeRecipe(width=4, num_features=8, num_steps=40)
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


def test_same_seed_same_judge_whatever_the_global_generator_says():
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
    first = cached_classifier(tmp_path, *data, 2, RECIPE, CPU).state_dict()
    (file,) = (tmp_path / "judges").iterdir()
    written = file.stat().st_mtime_ns
    again = cached_classifier(tmp_path, *data, 2, RECIPE, CPU).state_dict()
    assert file.stat().st_mtime_ns == written
    assert all(torch.equal(first[name], again[name]) for name in first)

    file.write_bytes(file.read_bytes()[:200])
    mended = cached_classifier(tmp_path, *data, 2, RECIPE, CPU).state_dict()
    assert all(torch.equal(first[name], mended[name]) for name in first)
    assert [path.name for path in (tmp_path / "judges").iterdir()] == [file.name]


def test_a_cache_file_that_runs_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    data = halves(0)
    cached_classifier(tmp_path, *data, 2, RECIPE, CPU)
    (file,) = (tmp_path / "judges").iterdir()
    torch.save({"head.weight": Trap()}, file)
    cached_classifier(tmp_path, *data, 2, RECIPE, CPU)
    assert not (tmp_path / "sprung").exists()


def test_a_judge_read_from_the_cache_leaves_the_global_generator_alone(tmp_path):
    data = halves(0)
    cached_classifier(tmp_path, *data, 2, RECIPE, CPU)
    before = torch.random.get_rng_state()
    cached_classifier(tmp_path, *data, 2, RECIPE, CPU)
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
