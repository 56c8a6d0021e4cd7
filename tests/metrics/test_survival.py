"""The alterations by hand, and a counterfactual that does not survive one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import softplus

from cfexplain.detectors.base import LogProbs
from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.survival import Survival, blurred, shifted, through_file

SPEC = Survival(num_resamples=50, jpeg_quality=75, shift_pixels=1, blur_sigma=0.5)


class EvenColumns(nn.Module):
    """Normal (logit -1) is what is dark in every odd column; the logit rises with the light there."""

    def log_probs(self, images):
        logits = (images[:, :, :, 1::2] + 1).amax(dim=(1, 2, 3)) * 20 - 1
        return LogProbs(log_anomalous=-softplus(-logits), log_normal=-softplus(logits))


def test_png_keeps_and_jpeg_changes():
    images = torch.randint(256, (3, 3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(through_file(images, "PNG"), images)
    grey = images[:, :1]
    assert torch.equal(through_file(grey, "PNG"), grey)
    jpeg = through_file(images, "JPEG", quality=75)
    assert jpeg.shape == images.shape and not torch.equal(jpeg, images)
    flat = torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)
    assert (through_file(flat, "JPEG", quality=75).int() - 90).abs().max() <= 2


def test_channels_are_not_mixed_up():
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[0, 0] = 200
    decoded = through_file(image, "JPEG", quality=95)
    assert decoded[0, 0].float().mean() > 190
    assert decoded[0, 1:].float().mean() < 10


def test_shift_by_hand():
    images = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    assert shifted(images, 1).tolist() == [[[[1, 1, 2], [4, 4, 5]]]]
    assert shifted(images, 2).tolist() == [[[[1, 1, 1], [4, 4, 4]]]]
    assert images.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


def test_blur_of_a_point_is_the_gaussian():
    images = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    images[0, 0, 2, 2] = 200
    side = np.exp(-1 / (2 * 0.25))
    taps = np.array([0, side, 1, side, 0]) / (1 + 2 * side)
    expected = np.round(200 * np.outer(taps, taps))
    assert blurred(images, 0.5)[0, 0].tolist() == expected.tolist()


def test_blur_keeps_a_flat_image_and_its_orientation():
    flat = torch.full((2, 3, 4, 6), 77, dtype=torch.uint8)
    assert torch.equal(blurred(flat, 0.5), flat)
    lines = torch.zeros(1, 1, 4, 6, dtype=torch.uint8)
    lines[..., 2, :] = 100
    result = blurred(lines, 0.5)
    assert (result == result[..., :1]).all()  # along the line nothing changes


def striped(planted, images):
    """The planted run with the column detector and these (N, K) counterfactuals, all valid."""
    explanations = replace(
        planted.explanations,
        sources=planted.explanations.sources.select(torch.arange(len(images))),
        images=images[:, None],
        logits=torch.full((len(images), 1, images.shape[1]), -1.0),
        threshold=0.0,
    )
    return replace(planted, model=replace(planted.model, detector=EvenColumns()), explanations=explanations)


def test_light_in_even_columns_does_not_survive_a_shift(planted):
    images = torch.zeros(4, 2, 3, 16, 16, dtype=torch.uint8)
    images[:, 0, :, :, 8] = 255  # concept 0: a bright line beside the odd columns; concept 1: black, survives all
    values = SPEC.compute(striped(planted, images))
    assert values["survival_png"] == 1.0
    assert values["survival_shift"] == 0.5
    assert values["survival_blur"] == 0.5
    assert values["survival"] == 0.5


def test_what_was_not_valid_does_not_count(planted):
    images = torch.zeros(4, 2, 3, 16, 16, dtype=torch.uint8)
    images[:, 0, :, :, 8] = 255
    inputs = striped(planted, images)
    inputs.explanations.logits[:, :, 0] = 5.0
    assert SPEC.compute(inputs)["survival"] == 1.0


def test_no_valid_counterfactual_leaves_the_key_out(planted):
    explanations = replace(planted.explanations, threshold=-1e9)
    with pytest.warns(CfexplainWarning, match="no counterfactual is valid"):
        assert SPEC.compute(replace(planted, explanations=explanations)) == {}


def test_planted_run(planted):
    values = SPEC.compute(planted)
    assert values["survival_png"] == 1.0  # what was judged is what is saved
    parts = [values[f"survival_{name}"] for name in ("png", "jpeg", "shift", "blur")]
    assert 0 < values["survival"] <= min(parts)
    assert values["survival_normals"] > 0.5


def test_pillow_blur_is_close():
    from PIL import ImageFilter

    image = torch.randint(256, (1, 1, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = np.asarray(Image.fromarray(image[0, 0].numpy()).filter(ImageFilter.GaussianBlur(0.5)), dtype=float)
    ours = blurred(image, 0.5)[0, 0].numpy().astype(float)
    # Pillow approximates the Gaussian by box filters; on noise of spread 74 the two agree within a few levels
    assert np.abs(ours - theirs).mean() < 8
