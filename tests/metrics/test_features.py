"""The feature space that FID and inspections share."""

from dataclasses import replace

import pytest
import torch

from cfexplain.data.batches import to_float
from cfexplain.metrics.features import RANDOM, feature_space
from cfexplain.metrics.judges import JudgeRecipe
from cfexplain.metrics.judges import fingerprint
from cfexplain.types import ImageSet, Splits

RECIPE = JudgeRecipe(width=4, num_features=8, num_steps=60)


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
    space = feature_space(splits, RECIPE, tmp_path, "cpu")
    assert space.name == f"classifier-{fingerprint(splits.reference.images, splits.reference.classes, RECIPE)[:8]}"
    rows, columns = space(bars(40, 0)), space(bars(40, 1))
    assert rows.dtype == torch.float32 and rows.shape == (40, 8)
    within, across = torch.cdist(rows, rows).mean(), torch.cdist(rows, columns).mean()
    assert across > 2 * within


def test_features_are_those_of_the_network_in_any_batch(splits, tmp_path):
    space, images = feature_space(splits, RECIPE, tmp_path, "cpu"), bars(7, 0)
    torch.testing.assert_close(space(images), space.network.features(to_float(images)))
    torch.testing.assert_close(space(images)[3:4], space(images[3:4]))


def test_a_second_call_reads_the_network_from_the_cache(splits, tmp_path):
    first = feature_space(splits, RECIPE, tmp_path, "cpu")
    assert len(list((tmp_path / "judges").glob("*.pt"))) == 1
    again = feature_space(splits, replace(RECIPE), tmp_path, "cpu")
    assert torch.equal(first(bars(5, 1)), again(bars(5, 1)))


def test_one_class_leaves_the_network_as_it_is_drawn(splits, tmp_path):
    reference = replace(splits.reference, classes=torch.zeros(160, dtype=torch.long))
    one = replace(splits, reference=reference)
    first, again = (feature_space(one, RECIPE, tmp_path, "cpu") for _ in range(2))
    assert first.name == RANDOM and not list(tmp_path.rglob("*.pt"))
    assert torch.equal(first(bars(5, 1)), again(bars(5, 1)))
    other = feature_space(one, replace(RECIPE, seed=1), tmp_path, "cpu")
    assert not torch.equal(first(bars(5, 1)), other(bars(5, 1)))
