"""Repaired regions against normal ones: distances by hand, and repairs whose worth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.correction import Correction, corrections, described, NormalPatches, windows
from tests.metrics.parts import NUM_DEFECTIVE, NUM_NORMAL, nothing, part_splits, run_on_parts, stripes

SPEC = Correction(num_resamples=50, patch_pixels=8, num_patches=2000, contrast_weight=8)


def generator():
    return torch.Generator().manual_seed(0)


def flat(*levels, shape=(1, 4, 4)):
    return torch.stack([torch.full(shape, level, dtype=torch.uint8) for level in levels])


def test_windows_reach_every_pixel():
    image = torch.arange(35).view(1, 5, 7)
    found = windows(image, 4)
    assert found[:, 0, 0, 0].tolist() == [0, 2, 3, 7, 9, 10]  # at rows 0, 1 and columns 0, 2, 3
    assert torch.equal(found[1], image[:, 0:4, 2:6])
    assert windows(image[:, :4, :4], 4).shape == (1, 1, 4, 4)


def test_ratios_by_hand():
    normals = NormalPatches(flat(100, 110, 130), 4, 60, 8, generator())
    # each is 10, 10 and 20 levels from the nearest of another image
    found = normals.log_ratios(flat(140, 115, 160, 100)).exp().tolist()
    assert found == pytest.approx([10 / 20, 5 / 10, 30 / 20, 1 / 10], rel=1e-4)  # the last one's 0 counts as 1


def test_the_distance_is_the_root_mean_square_in_levels():
    normals = NormalPatches(flat(100, 200, shape=(3, 4, 4)), 4, 20, 8, generator())
    patch = flat(100, shape=(3, 4, 4))
    patch[0, 0] += 30  # one of three channels: 30 / sqrt 3, and normals are 100 apart
    assert normals.log_ratios(patch).exp().item() == pytest.approx(30 / 3**0.5 / 100, rel=1e-4)


def test_contrast_by_hand():
    patches = flat(100, 100)
    patches[1, 0, 0, 0] = 190  # the mean of the 3 x 3 around is 122.5, 115 and 110 where 4, 6 and 9 are inside
    plain, dotted = described(patches, 0), described(patches, 8)
    # contrasts of the first quarter: (67.5 + 15 + 15 + 10) / 4 = 26.875; nothing in the three others
    assert (plain[0] - plain[1]).norm().item() == pytest.approx(90 / 4)
    assert (dotted[0] - dotted[1]).norm().item() == pytest.approx(((90 / 4) ** 2 + (8 * 26.875 / 2) ** 2) ** 0.5)


def test_windows_weigh_by_what_they_have_of_the_mask():
    normals = NormalPatches(flat(100, 110, 120), 4, 60, 8, generator())
    image = flat(100, shape=(1, 4, 8))
    image[..., 6:] = 140  # windows at columns 0, 2, 4: all at 100, all at 100, half at 140
    last = normals.log_ratios(image[..., 4:]).item()
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[..., 3:6] = True  # 1, 3 and 2 columns of the windows
    assert last > 1
    assert normals.of_regions(image, mask)[0] == pytest.approx((4 * math.log(1 / 10) + 2 * last) / 6, rel=1e-4)


def test_busy_and_flat_ground_alike():
    def images(count, seed):
        noise = torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        noise[..., :16] *= 3
        noise[..., 16:] *= 60
        return (128 + noise).round().clamp(0, 255).byte()

    normals = NormalPatches(images(60, 0), 8, 3000, 8, generator())
    masks = torch.zeros(2, 20, 32, 32, dtype=torch.bool)
    masks[0, :, 8:16, 2:10] = True
    masks[1, :, 8:16, 22:30] = True
    still, busy = (normals.of_regions(images(20, 1), mask).mean() for mask in masks)
    assert abs(still) < 0.1 and abs(busy) < 0.1  # 0 is as far as normal patches are from each other


def test_a_blur_is_no_texture():
    def texture(count, seed):
        return (128 + 20 * torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))).byte()

    masks = torch.zeros(10, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    sharp = texture(10, 1)
    smooth = v2.functional.gaussian_blur(sharp, 7, 1.5)
    by_pixels, whole = (NormalPatches(texture(60, 0), 8, 1000, weight, generator()) for weight in (0, 8))
    assert by_pixels.of_regions(smooth, masks).mean() < by_pixels.of_regions(sharp, masks).mean() - 0.1
    assert whole.of_regions(smooth, masks).mean() > whole.of_regions(sharp, masks).mean() + 0.3


def test_shares_by_hand():
    before, normal = np.array([1.0, 2.0]), np.array([0.0, 1.0])
    after = np.array([[1.0, 0.5, 0.25, 1.5], [2.0, 0.5, 0.25, 2.5]])
    assert corrections(before, after, normal).tolist() == [0.0, 1.0, 1.25, -0.5]


def originals(sources):
    """The images of a test set of parts before they were damaged."""
    images = stripes(NUM_DEFECTIVE + NUM_NORMAL, 2)
    return images[[int(id.removeprefix("test/")) for id in sources.ids]]


def inside(planted, sources, images):
    masks = dict(zip((test := part_splits(planted.splits).test).ids, test.masks, strict=True))
    return torch.where(torch.stack([masks[id] for id in sources.ids])[:, None], images, sources.images)


def test_nothing_done_is_0_and_a_normal_region_in_the_place_of_the_defect_1(planted):
    def repair(sources):
        half = (sources.images.float() + originals(sources).float()).div(2).byte()
        return torch.stack([sources.images, inside(planted, sources, originals(sources)), half], dim=1)

    values = SPEC.compute(run_on_parts(planted, repair))
    shares = [values[f"correction_concept_{concept}"] for concept in range(3)]
    assert shares[0] == 0.0 and shares[1] == pytest.approx(1.0, abs=0.1) and 0.1 < shares[2] < 0.7
    assert values["correction"] == pytest.approx(np.mean(shares))
    assert values["correction_low"] < values["correction"] < values["correction_high"]
    assert values["correction_normal"] == pytest.approx(1.0, abs=0.1) and values["correction_before"] > 2


def test_a_seam_and_another_defect_show(planted):
    def repair(sources):
        other = stripes(len(sources), 8)  # whose stripes do not meet those around the defect
        return torch.stack([inside(planted, sources, images) for images in (other, 255 - sources.images)], dim=1)

    values = SPEC.compute(run_on_parts(planted, repair))
    assert 0.2 < values["correction_concept_0"] < 0.8 and abs(values["correction_concept_1"]) < 0.2


def test_each_concept_alone_and_unmarked_images_not_at_all(planted):
    def repair(sources):
        return torch.stack([originals(sources), sources.images], dim=1)

    inputs = run_on_parts(planted, repair)
    inputs.splits.test.masks[0] = False
    before = SPEC.compute(inputs)
    inputs.explanations.images[0, 0, 0] = 0  # of an image without a mark
    assert SPEC.compute(inputs) == before
    inputs.explanations.images[1, 0, 0] = 0
    assert SPEC.compute(inputs) != before
    assert before["correction_concept_0"] > 0.9 and before["correction_concept_1"] == 0.0


def test_defects_that_look_normal_have_no_share(planted):
    inputs = run_on_parts(planted, nothing)
    sources = replace(inputs.explanations.sources, images=originals(inputs.explanations.sources))
    with pytest.warns(CfexplainWarning, match="hardly farther"):
        values = SPEC.compute(replace(inputs, explanations=replace(inputs.explanations, sources=sources)))
    assert set(values) == {"correction_before", "correction_after", "correction_normal"}


def test_one_training_image_is_too_few(planted):
    inputs = run_on_parts(planted, nothing)
    splits = replace(inputs.splits, train=inputs.splits.train.first(1))
    with pytest.warns(CfexplainWarning, match="two training images"):
        assert SPEC.compute(replace(inputs, splits=splits)) == {}


def test_images_smaller_than_a_patch_are_one_patch(planted):
    values = replace(SPEC, patch_pixels=100).compute(run_on_parts(planted, nothing))
    assert values["correction"] == 0.0


def test_nothing_without_masks(planted):
    assert SPEC.compute(planted) == {}
