"""A counterfactual that does not survive an alteration, and what does not count."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from cfexplain.detectors.base import LogProbs
from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.survival import Survival

SPEC = Survival(num_resamples=50, jpeg_quality=75, shift_pixels=1, blur_sigma=0.5)


class EvenColumns(nn.Module):
    """Normal (logit -1) is what is dark in every odd column; the logit rises with the light there."""

    def log_probs(self, images):
        logits = (images[:, :, :, 1::2] + 1).amax(dim=(1, 2, 3)) * 20 - 1
        return LogProbs(log_anomalous=-softplus(-logits), log_normal=-softplus(logits))


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
    parts = [values[f"survival_{name}"] for name in ("jpeg", "shift", "blur")]
    assert 0 < values["survival"] <= min(parts)
    assert values["survival_normals"] > 0.5
