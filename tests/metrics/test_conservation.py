"""What changes outside the defects and in normal images: by hand, and of generators whose edits are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.conservation import Conservation, outside_changes, widened
from tests.metrics.parts import NUM_DEFECTIVE, nothing, run_on_parts

SPEC = Conservation(num_resamples=50, margin_pixels=1, max_l1_distance=0.01)
LEFT_ALONE = {"normals_left_alone", "normals_left_alone_low", "normals_left_alone_high", "normals_left_alone_concept_0"}


def brighter(levels):
    """Concept 0 adds so many levels everywhere, concept 1 does nothing."""
    def repair(sources):
        added = (sources.images.short() + levels).clamp(0, 255).byte()
        return torch.stack([added, sources.images], dim=1)

    return repair


def test_a_margin_by_hand():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 1, 3] = True
    assert torch.equal(widened(masks, 0), masks)
    assert widened(masks, 1).int().tolist() == [
        [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], [[0] * 5] * 4,
    ]  # fmt: skip


def test_changes_outside_by_hand():
    sources = torch.full((2, 2, 2, 2), 100, dtype=torch.uint8)
    edited = sources[:, None].repeat(1, 2, 1, 1, 1)
    masks = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    edited[0, 0, :, 0, 0] = 255  # inside: does not count
    edited[0, 1, 0, 0, 1] += 51  # 0.4 of [-1, 1], in one of two channels of one of three pixels, upwards
    edited[0, 1, 1, 1, 1] -= 51  # and downwards
    changes = outside_changes(sources, edited, masks)
    assert changes[0].tolist() == pytest.approx([0.0, 0.8 / 6])
    assert np.isnan(changes[1]).all()


def test_nothing_done_is_all_kept(planted):
    values = SPEC.compute(run_on_parts(planted, nothing))
    assert (values["outside_change"], values["outside_kept"], values["normals_left_alone"]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(("levels", "is_kept"), [(1, True), (3, False)])  # 1 level is 0.008
def test_each_concept_counts(planted, levels, is_kept):
    values = SPEC.compute(run_on_parts(planted, brighter(levels)))
    assert values["outside_change_concept_0"] == pytest.approx(levels / 127.5, rel=0.02)  # a few are at 255 already
    assert values["outside_change"] == pytest.approx(values["outside_change_concept_0"] / 2)
    for key in ("outside_kept", "normals_left_alone"):
        assert values[f"{key}_concept_0"] == is_kept and values[f"{key}_concept_1"] == 1.0
        assert values[f"{key}_low"] <= values[key] == (1 + is_kept) / 2 <= values[f"{key}_high"]


def test_a_repair_and_its_seam_are_no_change_outside(planted):
    masks = {}

    def repair(sources):
        inside = torch.stack([masks.get(id, torch.zeros(32, 32)) for id in sources.ids]).bool()
        return torch.where(widened(inside, 1)[:, None], 0, sources.images)[:, None]

    splits = run_on_parts(planted, nothing).splits
    masks |= dict(zip(splits.test.ids, splits.test.masks, strict=True))
    inputs = run_on_parts(planted, repair)
    assert SPEC.compute(inputs)["outside_change"] == 0.0
    assert SPEC.compute(inputs)["normals_left_alone"] == 1.0
    assert replace(SPEC, margin_pixels=0).compute(inputs)["outside_change"] > 0


def test_unmarked_anomalies_do_not_count(planted):
    inputs = run_on_parts(planted, brighter(20))
    inputs.splits.test.masks[1:NUM_DEFECTIVE] = False
    inputs.explanations.images[0] = inputs.explanations.sources.images[0]
    assert SPEC.compute(inputs)["outside_change"] == 0.0


def test_defects_that_cover_all_leave_no_outside(planted):
    inputs = run_on_parts(planted, nothing)
    inputs.splits.test.masks[:NUM_DEFECTIVE] = True
    with pytest.warns(CfexplainWarning, match="covers its image"):
        assert set(SPEC.compute(inputs)) == LEFT_ALONE


def test_without_masks_a_run_on_pseudo_anomalies_has_its_normals_alone(planted):
    inputs = run_on_parts(planted, brighter(3))
    splits = replace(inputs.splits, test=replace(inputs.splits.test, masks=None))
    assert SPEC.compute(replace(inputs, splits=splits)) == {}
    made = replace(splits, fresh=lambda images, generator: (images, images[:, 0] > 0))
    values = SPEC.compute(replace(inputs, splits=made))
    assert set(values) == LEFT_ALONE | {"normals_left_alone_concept_1"} and values["normals_left_alone"] == 0.5
