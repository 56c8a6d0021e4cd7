"""Where edits lie: by hand, against a brute-force PRO, and on a run whose defects are planted."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from sklearn.metrics import roc_auc_score

from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.localization import Localization, anomaly_maps, aupro, energy_in_mask
from cfexplain.types import ImageSet

SPEC = Localization(num_resamples=50, max_false_positive_rate=0.3)
EIGHT = np.ones((3, 3))


def blobs(seed, count, side=24, threshold=0.8):
    """Masks of a few irregular regions each."""
    rng = np.random.default_rng(seed)
    fields = np.stack([scipy.ndimage.gaussian_filter(rng.normal(size=(side, side)), 1.5) for _ in range(count)])
    return fields > np.quantile(fields, threshold)


def brute_force_aupro(maps, masks, limit):
    """Threshold by threshold, region by region, integrated on a fine grid of false positive rates."""
    regions = [
        (row, scipy.ndimage.label(mask, structure=EIGHT)[0] == number)
        for row, mask in enumerate(masks)
        for number in range(1, scipy.ndimage.label(mask, structure=EIGHT)[1] + 1)
    ]
    rates, overlaps = [0.0], [0.0]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        rates.append((maps[~masks] >= threshold).mean())
        overlaps.append(np.mean([(maps[row][region] >= threshold).mean() for row, region in regions]))
    grid = np.linspace(0, limit, 200_001)
    return np.trapezoid(np.interp(grid, rates, overlaps), grid) / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_brute_force(seed, limit):
    masks = np.concatenate([blobs(seed, 4), np.zeros((2, 24, 24), dtype=bool)])
    maps = np.random.default_rng(seed).integers(0, 40, masks.shape) + 15 * masks
    # the grid of rates misses the corners of the curve by up to its step
    assert aupro(maps, masks, limit) == pytest.approx(brute_force_aupro(maps, masks, limit), abs=1e-3)


def test_aupro_of_perfect_and_of_constant_maps():
    masks = blobs(0, 3)
    assert aupro(masks.astype(int), masks, 0.3) == pytest.approx(1.0)
    assert aupro(np.zeros(masks.shape, dtype=int), masks, 0.3) == pytest.approx(0.15)  # chance: half of the rate


def test_small_regions_count_as_much_as_large_ones():
    masks = np.zeros((1, 20, 20), dtype=bool)
    masks[0, :10, :10] = True
    masks[0, 15, 15] = True
    maps = np.zeros(masks.shape, dtype=int)
    maps[0, 15, 15] = 1  # only the single pixel is found: half of the overlap before any false positive
    assert aupro(maps, masks, 0.3) == pytest.approx((0.5 + (0.5 + 0.5 * 0.3)) / 2)


def test_energy_by_hand():
    sources = torch.full((2, 2, 2, 2), 100, dtype=torch.uint8)
    counterfactuals = sources[:, None].repeat(1, 2, 1, 1, 1)
    counterfactuals[0, 0, 0, 0, 0] += 3  # inside: 9 + 16
    counterfactuals[0, 0, 1, 0, 0] -= 4
    counterfactuals[0, 0, 1, 1, 1] += 5  # outside: 25
    counterfactuals[0, 1, 0, 0, 0] += 150  # a whole unit inside
    masks = torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[:, 0, 0] = True
    shares = energy_in_mask(sources, counterfactuals, masks)
    assert shares[0].tolist() == [0.5, 1.0]
    assert np.isnan(shares[1]).all()  # unchanged


def located(planted, edits_defect):
    """Grey-box images: anomalies carry a bright square; the counterfactuals darken it, or another place."""
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(30, 16, 16, dtype=torch.bool)
    images = torch.randint(80, 100, (30, 3, 16, 16), generator=rng, dtype=torch.uint8)
    for row in range(20):  # the last ten are normal
        y, x = torch.randint(0, 6, (2,), generator=rng).tolist()
        masks[row, y : y + 4, x : x + 4] = True
        images[row, :, y : y + 4, x : x + 4] = 200
    labels = (torch.arange(30) < 20).long()
    test = ImageSet(images=images, labels=labels, classes=labels, ids=tuple(f"t/{i}" for i in range(30)), masks=masks)
    places = masks if edits_defect else masks.roll(8, dims=1)

    def explain(sources):
        rows = [test.ids.index(id) for id in sources.ids]
        edited = sources.images.clone()
        edited -= places[rows][:, None] * torch.tensor(60, dtype=torch.uint8)
        noisy = edited + torch.randint(0, 3, edited.shape, generator=rng, dtype=torch.uint8)
        explanations = planted.explanations
        return replace(
            explanations, sources=replace(sources, masks=None), images=torch.stack([edited, noisy], dim=1)[:, None],
            logits=explanations.logits[: len(rows)], source_logits=explanations.source_logits[: len(rows)],
        )

    splits = replace(planted.splits, test=test)
    return replace(planted, splits=splits, explanations=explain(splits.test_anomalies), explain=explain)


def test_edits_at_the_defect_and_elsewhere(planted):
    good, bad = (SPEC.compute(located(planted, edits_defect)) for edits_defect in (True, False))
    assert good["mask_fraction"] == bad["mask_fraction"] == pytest.approx(16 / 256)
    assert good["edit_in_mask_concept_0"] == pytest.approx(1.0) and bad["edit_in_mask_concept_0"] == 0.0
    assert 0.9 < good["edit_in_mask_concept_1"] < 1.0
    parts = [good[f"edit_in_mask_concept_{k}"] for k in range(2)]
    assert good["edit_in_mask"] == pytest.approx(np.mean(parts))
    assert good["edit_in_mask_low"] <= good["edit_in_mask"] <= good["edit_in_mask_high"]
    assert good["pixel_auroc"] > 0.999 and good["aupro"] > 0.999
    assert bad["pixel_auroc"] < 0.6 and bad["aupro"] < 0.2


def test_pixel_auroc_counts_edits_of_normal_images(planted):
    inputs = located(planted, edits_defect=True)
    maps = np.concatenate([anomaly_maps(inputs.explanations), anomaly_maps(inputs.explain(inputs.splits.test_normals))])
    masks = inputs.splits.test.masks.numpy()  # anomalies first, then normals, as the maps
    expected = roc_auc_score(masks.ravel(), maps.ravel())
    plain = inputs.explain

    def with_false_alarms(images):
        explanations = plain(images)
        if images.labels.any():
            return explanations
        return replace(explanations, images=255 - explanations.images)

    assert SPEC.compute(inputs)["pixel_auroc"] == pytest.approx(expected, abs=0.01)  # other noise in the second draw
    alarmed = SPEC.compute(replace(inputs, explain=with_false_alarms))
    assert alarmed["pixel_auroc"] < 0.8 and alarmed["aupro"] < 0.5


def test_the_largest_change_of_all_concepts_makes_the_map(planted):
    inputs = located(planted, edits_defect=True)
    explanations = inputs.explanations
    explanations.images[0, 0, 1, :, 15, 15] = 0
    expected = explanations.sources.images[0, :, 15, 15].int().sum()
    assert anomaly_maps(explanations)[0, 15, 15] == expected


def test_sources_in_another_order_keep_their_masks(planted):
    inputs = located(planted, edits_defect=True)
    order = torch.arange(20).flip(0)
    explanations = inputs.explanations
    turned = replace(explanations, sources=explanations.sources.select(order), images=explanations.images[order])
    values = SPEC.compute(replace(inputs, explanations=turned))
    assert values["edit_in_mask_concept_0"] == pytest.approx(1.0)


def test_no_edit_at_all_leaves_the_share_out(planted):
    inputs = located(planted, edits_defect=True)
    explanations = inputs.explanations
    unchanged = explanations.sources.images[:, None, None].expand_as(explanations.images)
    with pytest.warns(CfexplainWarning, match="changes no image"):
        values = SPEC.compute(replace(inputs, explanations=replace(explanations, images=unchanged)))
    assert set(values) == {"mask_fraction", "pixel_auroc", "aupro"}


def test_nothing_without_masks(planted):
    assert SPEC.compute(planted) == {}
