"""A whole inspection: on formulas whose verdicts are known, and on a trained detector with an adversary.

Then the order of verdicts, and when two edits are the same change.
"""

import math

import pytest
import torch

from cfexplain.data.batches import to_float, to_uint8
from cfexplain.detectors.base import logits_of
from cfexplain.inspection.base import NUM_WAY_STEPS, VERDICTS, Verdict
from cfexplain.inspection.inspect import duplicates, inspect, positions, same_changes, verdict_codes
from cfexplain.inspection.reference import build_reference
from cfexplain.inspection.saliency import logit_gradients
from tests.inspection.formulas import CPU, USUAL, FormulaDetector, explanations_of, model_of, splits_of


def brightness(images):
    return images.mean(dim=(1, 2, 3)) * 127.5 + 127.5


def flat(*levels):
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 16, 16)


def inspected(detector, splits, space, sources, images, second=None, rate=0.05):
    explanations = explanations_of(detector, sources, images)
    reference = build_reference(detector, splits, space, second, rate, CPU, USUAL)
    return inspect(model_of(detector, explanations), explanations, reference, CPU), reference


@pytest.fixture
def known(grey, pixel_space):
    """Normal: levels 20 to 59, threshold 54.2. Images: level 200, and 41, each under three concepts."""
    sources = flat(200, 41)
    images = torch.stack([flat(30, 100, 32), flat(30, 90, 30)])  # (N, K, C, H, W)
    images[0, 2, :, 8] = 0  # a dark line
    return inspected(FormulaDetector(brightness), grey, pixel_space, sources, images)


def test_verdicts_of_known_images(known):
    inspection, reference = known
    assert reference.threshold == pytest.approx(54.2)
    assert inspection.explanations.threshold == reference.threshold  # not the -1e9 that the explanations came with
    verdicts = [[inspection.verdict(index, concept) for concept in range(3)] for index in range(2)]
    assert verdicts[0] == [Verdict.ok, Verdict.not_flipped, Verdict.off_manifold]
    assert verdicts[1] == [Verdict.already_normal] * 3
    assert inspection.duplicate_of[0].tolist() == [-1, -1, 0]  # off_manifold comes first


def test_what_stands_in_an_inspection(known):
    inspection, reference = known
    explanations = inspection.explanations
    assert inspection.alterations == ("jpeg", "shift", "blur")
    assert inspection.position_before.tolist() == pytest.approx([1.0, 0.6])  # six of 20, 24, ..., 56 are below 41
    assert inspection.position_after[0, :2].tolist() == pytest.approx([0.3, 1.0])
    assert torch.equal(inspection.way_logits[:, :, 0], explanations.source_logits[:, None].expand(-1, 3))
    assert torch.equal(inspection.way_logits[:, :, -1], explanations.logits[:, 0])
    steps = torch.linspace(200, 30, NUM_WAY_STEPS)
    torch.testing.assert_close(inspection.way_logits[0, 0], steps, atol=0.51, rtol=0)  # rounding to 8 bit
    assert inspection.nearest[:, 0, 0, 0].tolist() == [59, 41]
    assert inspection.nearest_ids == ("train/29", "train/15")
    assert not inspection.is_drawn and inspection.plausible_distances.tolist() == pytest.approx([282 / 255, 0])


def test_repairs_pass_or_are_the_counterfactual(known):
    inspection, reference = known
    logits = logits_of(FormulaDetector(brightness), inspection.repairs.flatten(0, 1)).reshape(2, 3)
    torch.testing.assert_close(logits, inspection.repair_logits)
    assert (logits[0, [0, 2]] <= reference.threshold).all() and (logits[0, [0, 2]] > reference.threshold - 3).all()
    assert torch.equal(inspection.repairs[0, 1], inspection.explanations.counterfactuals[0, 1])
    assert torch.equal(inspection.repairs[1], inspection.explanations.sources.images[1].expand(3, -1, -1, -1))
    excess = inspection.change_sizes.excess_change
    # from 200 to 54.2 instead of 30; nothing saved where nothing passes; everything where nothing was to do
    assert excess[0, 0] == pytest.approx((54.2 - 30) / 170, abs=0.02)
    assert excess[0, 1] == 0 and excess[1].tolist() == [1, 1, 1]


def test_positions_count_lower_scores_only():
    assert positions(torch.tensor([[0.0, 1.0], [1.5, 9.0]]), torch.tensor([1.0, 1.0, 2.0, 3.0])).tolist() == [
        [0.0, 0.0], [0.5, 1.0],
    ]  # fmt: skip


def test_no_images_at_all(grey, pixel_space):
    inspection, _ = inspected(
        FormulaDetector(brightness), grey, pixel_space, flat(1)[:0], flat(1)[:0, None].repeat(1, 2, 1, 1, 1)
    )
    assert inspection.verdict_codes.shape == (0, 2) and inspection.repairs.shape == (0, 2, 3, 16, 16)
    assert inspection.heatmaps.shape == (0, 16, 16) and inspection.nearest.shape == (0, 3, 16, 16)


def test_batches_do_not_matter(grey, pixel_space):
    rng = torch.Generator().manual_seed(0)
    sources = torch.randint(150, 250, (6, 3, 16, 16), generator=rng, dtype=torch.uint8)
    images = torch.randint(0, 80, (6, 2, 3, 16, 16), generator=rng, dtype=torch.uint8)
    whole, _ = inspected(FormulaDetector(brightness), grey, pixel_space, sources, images)
    part, _ = inspected(FormulaDetector(brightness), grey, pixel_space, sources[4:], images[4:])
    for name in ("verdict_codes", "survives", "repairs", "nearest", "duplicate_of"):
        assert torch.equal(getattr(whole, name)[4:], getattr(part, name)), name
    torch.testing.assert_close(whole.heatmaps[4:], part.heatmaps)


def column_light(images):
    """Light in odd columns raises the score, unless even columns are lit beside it: a mark that a shift undoes."""
    return (images[..., 1::2] - images[..., 0::2]).amax(dim=(1, 2, 3)) * 127.5


def test_what_a_shift_undoes_is_adversarial(pixel_space):
    normals = flat(*range(20, 60))
    sources = flat(60)
    sources[..., 9] = 255
    marked = sources.clone()
    marked[..., 8] = 255  # by this score the bright column is gone; moved by a pixel it is back
    images = torch.stack([marked[0], flat(40)[0]])[None]
    splits = splits_of(torch.cat([normals, marked]), normals)
    inspection, _ = inspected(FormulaDetector(column_light), splits, pixel_space, sources, images)
    assert [inspection.verdict(0, concept) for concept in (0, 1)] == [Verdict.adversarial, Verdict.ok]
    assert "shift" in inspection.failures(0, 0)


def test_what_an_alteration_does_to_real_normals_too_is_no_fault(pixel_space):
    """A detector that a blur upsets: each normal image fails after it, and so does a normal image as counterfactual."""
    rng = torch.Generator().manual_seed(0)
    normals = (flat(*[100] * 60).int() + torch.randint(-40, 41, (60, 3, 16, 16), generator=rng)).byte()

    def smoothness(images):
        return -(images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3)) * 127.5

    splits, detector = splits_of(normals[:30], normals[30:50]), FormulaDetector(smoothness)
    inspection, reference = inspected(detector, splits, pixel_space, flat(*[100] * 10), normals[50:, None], rate=0.1)
    threshold, blurred = reference.threshold, reference.alteration_thresholds[2]
    assert blurred > threshold + 5  # without it, no normal image would survive a blur
    flipped = inspection.explanations.logits[:, 0, 0] <= threshold
    survive_blur = inspection.survives[flipped, 0, 2]
    assert len(survive_blur) >= 8 and survive_blur.float().mean() >= 0.8


def test_a_second_detector_has_its_say(grey, pixel_space):
    second = FormulaDetector(lambda images: (images[:, 0] - images[:, 2]).mean(dim=(1, 2)) * 127.5)  # redder than blue
    sources, images = flat(200), flat(30, 30)[None].clone()
    images[0, 1, 0] += 20
    inspection, _ = inspected(FormulaDetector(brightness), grey, pixel_space, sources, images, second)
    assert inspection.alterations[-1] == "second_detector"
    assert inspection.failures(0, 0) == () and inspection.failures(0, 1) == ("second_detector",)
    assert inspection.verdict(0, 1) is Verdict.adversarial


def descended(detector, images, radius, steps):
    """Projected gradient descent on the logit in the maximum norm, radius in [-1, 1] units (Madry et al., 2018)."""
    start = to_float(images)
    found = start.clone()
    for _ in range(steps):
        found = found - 2.5 * radius / steps * logit_gradients(detector, found, CPU).sign()
        found = (start + (found - start).clamp(-radius, radius)).clamp(-1, 1)
    return to_uint8(found)


def shares(glyph, images, sources):
    """Verdict -> its share among those that flip the detector."""
    inspection, reference = inspected(
        glyph.detector, glyph.splits, glyph.features, sources, images[:, None], glyph.second
    )
    flipped = (inspection.explanations.logits[:, 0, 0] <= reference.threshold) & (
        inspection.explanations.source_logits > reference.threshold
    )
    codes = inspection.verdict_codes[flipped, 0]
    return {verdict: (codes == number).float().mean().item() for number, verdict in enumerate(VERDICTS)}, flipped


@pytest.mark.slow
def test_gradient_noise_is_adversarial_and_a_real_normal_image_is_not(glyph):
    anomalies, normals = glyph.splits.test_anomalies.images[:80], glyph.splits.test_normals.images[:80]
    noisy, flipped = shares(glyph, descended(glyph.detector, anomalies, 0.25, 25), anomalies)
    assert flipped.float().mean() > 0.5
    assert noisy[Verdict.adversarial] > 0.7 and noisy[Verdict.ok] < 0.1
    real, flipped = shares(glyph, normals, anomalies)
    assert flipped.float().mean() > 0.8
    assert real[Verdict.adversarial] < 0.2 and real[Verdict.ok] > 0.7


def test_small_batches_find_the_same(known, grey, pixel_space, monkeypatch):
    """Large images are taken a few at a time; here one by one."""
    inspection, _ = known
    for module in ("repair", "saliency"):
        monkeypatch.setattr(f"cfexplain.inspection.{module}.PIXELS", 1)
    monkeypatch.setattr("cfexplain.inspection.saliency.GRADIENT_PIXELS", 1)
    explanations = inspection.explanations
    images = explanations.counterfactuals
    again, _ = inspected(FormulaDetector(brightness), grey, pixel_space, explanations.sources.images, images)
    assert torch.equal(again.repairs, inspection.repairs)
    torch.testing.assert_close(again.heatmaps, inspection.heatmaps)


def verdict(already_normal=False, flipped=True, survives=(True, True), distance=0.5, duplicate_of=-1):
    codes = verdict_codes(
        torch.tensor([already_normal]), torch.tensor([[flipped]]), torch.tensor([[survives]]),
        torch.tensor([[distance]]), torch.tensor([[duplicate_of]]),
    )  # fmt: skip
    return VERDICTS[codes.item()]


def test_the_first_that_holds_is_the_verdict():
    faults = dict(already_normal=True, flipped=False, survives=(True, False), distance=1.01, duplicate_of=0)
    for expected in VERDICTS[:-1]:
        assert verdict(**faults) is expected
        faults.pop(next(iter(faults)))
    assert verdict() is Verdict.ok


def test_the_limit_itself_is_on_the_manifold():
    assert verdict(distance=1.0) is Verdict.ok
    assert verdict(distance=math.nextafter(1.0, 2.0) + 1e-6) is Verdict.off_manifold


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ([40, 20, 0, 0], True),
        ([32, 16, 0, 0], True),  # 0.8 of it
        ([20, 10, 0, 0], False),  # half of it: a fainter change is another one
        ([36, 26, 4, 0], True),  # 15 degrees away
        ([26, 36, 0, 0], False),  # 28 degrees away, though no farther than 0.49 of their size
        ([-40, -20, 0, 0], False),
        ([0, 0, 40, 20], False),
        ([0, 0, 0, 0], False),
    ],
)
def test_same_change_by_hand(other, is_same):
    edits = torch.tensor([[40, 20, 0, 0], other]).float()
    assert same_changes(edits).tolist() == [[True, is_same], [is_same, True]]


def test_duplicates_name_the_first_earlier_concept():
    sources = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    counterfactuals = sources[:, None].repeat(1, 4, 1, 1, 1)
    counterfactuals[0, 0, 0] += 50  # redder; then brighter; then again redder, twice
    counterfactuals[0, 1] += 50
    counterfactuals[0, 2, 0] += 45
    counterfactuals[0, 3, 0] += 50
    found = duplicates(sources, counterfactuals)
    assert found[0].tolist() == [-1, -1, 0, 0]
    assert found[1].tolist() == [-1, 0, 0, 0]  # concepts that change nothing are the same
