"""Repairs against the truth: by hand, of generators that do nothing or know it, and of kinds that training used."""

from dataclasses import replace

import pytest
import torch

from cfexplain.config import build
from cfexplain.data.exposures.mixed import Mixed
from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.base import MetricSpec
from cfexplain.metrics.restoration import gains, Restoration, ssim, trained_kinds
from tests.metrics.parts import nothing, part_splits, run_on_parts, stripes
from tests.specs import metric_values

SPEC = build(metric_values("restoration")["restoration"] | {"num_resamples": 50, "num_images": 15}, MetricSpec, "")
KINDS = SPEC.kinds
MIXED = Mixed(limit=None, seed=0, kinds={"a": KINDS["blobs"], "b": KINDS["cutpaste"]})


def knowing(planted):
    """A generator that puts the held-out image itself in the place of what was made of it."""
    held_out = part_splits(planted.splits).held_out
    truth = dict(zip(held_out.ids, held_out.images, strict=True))

    def repair(sources):
        return torch.stack([truth.get(id, image) for id, image in zip(sources.ids, sources.images)])[:, None]

    return repair


def trained_on(inputs, spec):
    return replace(inputs, splits=replace(inputs.splits, fresh=spec.fresh))


def test_gains_by_hand():
    origins = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, 3:5, 3:5] = True
    damaged = origins + 20 * masks[:, None]
    repaired = torch.stack([damaged, origins + 2 * masks[:, None], origins, damaged], dim=1)
    repaired[0, 3, 0, 12, 12] = 80  # 400 squared levels outside, where the damage has 4 x 400
    found = gains(origins, damaged, masks, repaired)
    # 10 log10 of 400 / 4 and, where the repair is perfect, of 400 / 0.25
    assert found.psnr[0].tolist() == pytest.approx([0, 20, 32.0412, 0], abs=1e-4)
    assert found.psnr_outside[0].tolist() == pytest.approx([0, 0, 0, -0.9691], abs=1e-4)  # -10 log10 (2000 / 1600)
    assert found.ssim[0, 0] == 0.0 and found.ssim[0, 3] < 0 < found.ssim[0, 1] < found.ssim[0, 2]
    assert found.ssim[0, 2] == pytest.approx(1 - ssim(damaged, origins)[0])


def test_ssim_of_flat_images_by_hand():
    # without contrast what is left is (2 a b + c) / (a^2 + b^2 + c) with c = (0.01 * 255)^2
    flat = [torch.full((70, 3, 16, 16), level, dtype=torch.uint8) for level in (50, 100)]
    assert ssim(*flat).tolist() == pytest.approx([(2 * 5000 + 6.5025) / (2500 + 10000 + 6.5025)] * 70, abs=1e-5)


def test_who_does_nothing_gains_nothing(planted):
    values = SPEC.compute(run_on_parts(planted, nothing))
    assert values.pop("restoration_images") == 75
    assert set(values.values()) == {0.0}


def test_who_knows_the_truth_gains_the_most(planted):
    values = SPEC.compute(run_on_parts(planted, knowing(planted)))
    assert values["restoration_psnr_gain"] > 20 and values["restoration_ssim_gain"] > 0.02
    assert 0 <= values["restoration_psnr_outside"] < 0.1  # what is too weak to be marked is repaired as well
    kinds = [values[f"restoration_psnr_gain_{kind}"] for kind in KINDS]
    assert values["restoration_psnr_gain"] == pytest.approx(sum(kinds) / 5) and len(set(kinds)) == 5
    assert values["restoration_psnr_gain_low"] < values["restoration_psnr_gain"] < values["restoration_psnr_gain_high"]


def test_another_normal_image_is_no_repair(planted):
    values = SPEC.compute(run_on_parts(planted, lambda sources: stripes(len(sources), 9)[:, None]))
    assert values["restoration_psnr_gain"] < 5 and values["restoration_psnr_outside"] < -5


@pytest.mark.parametrize(
    ("trained", "left"),
    [("blobs", {"cutpaste", "confetti", "scratches", "dents"}),  # whose regions dents have: another kind all the same
     ("confetti", {"blobs", "cutpaste", "scratches", "dents"}), (None, {"confetti", "scratches", "dents"})],
)
def test_kinds_of_training_are_left_out(planted, trained, left):
    spec = replace(KINDS[trained], seed=7) if trained else MIXED
    values = SPEC.compute(trained_on(run_on_parts(planted, nothing), spec))
    found = {key.removeprefix("restoration_psnr_gain_") for key in values}
    assert found & set(KINDS) == left and values["restoration_images"] == 15 * len(left)


def test_a_mixture_as_a_kind_is_left_out_with_one_of_its_parts(planted):
    spec = replace(SPEC, kinds={"mixed": MIXED})
    with pytest.warns(CfexplainWarning, match="trained on each kind"):
        assert spec.compute(trained_on(run_on_parts(planted, nothing), KINDS["cutpaste"])) == {}
    nested = replace(MIXED, kinds={"c": MIXED})
    assert trained_kinds(nested.fresh) == {type(KINDS["blobs"]), type(KINDS["cutpaste"])}


def test_only_held_out_images_are_damaged_and_the_seed_says_which(planted):
    seen = []

    def repair(sources):
        seen.append(sources)
        return sources.images[:, None]

    inputs = run_on_parts(planted, repair)
    for seed in (0, 0, 1):
        SPEC.compute(replace(inputs, seed=seed))
    drawn = [batch for batch in seen if batch.ids[0].startswith("held")]
    assert len(drawn) == 15 and all(len(set(batch.ids)) == 15 for batch in drawn)
    first, second, other = drawn[::5]
    assert first.ids == second.ids != other.ids and torch.equal(first.images, second.images)


def test_nothing_where_anomalies_are_no_defects(planted):
    assert SPEC.compute(planted) == {}
    assert set(SPEC.compute(trained_on(planted, KINDS["blobs"]))) > {"restoration_psnr_gain_confetti_low"}


def test_no_kinds_are_refused():
    with pytest.raises(ValueError, match="kinds"):
        Restoration(num_resamples=1, num_images=1, kinds={})
