"""Keeping an image and finding back to it: by hand, and of generators of which it is known whether they can."""

import math

import pytest
import torch

from cfexplain.errors import CfexplainWarning
from cfexplain.explanation.explain import alpha_bins_of, explain_images, FittedModel
from cfexplain.metrics.base import MetricInputs
from cfexplain.metrics.reversibility import applied, Reversibility
from tests.inspection.formulas import FormulaDetector, image_set, splits_of

SPEC = Reversibility(num_resamples=50, num_images=100, num_repeats=10)
CPU = torch.device("cpu")
GREEN, RED = 200, 120  # levels of the two kinds of images: anomalies are green, normal images red


def images_of(count, channel, level):
    """(N, 3, 4, 4) uint8, one channel lit, each image at its own level."""
    images = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    images[:, channel] = (level + torch.arange(count)).byte()[:, None, None]
    return images


def repainted(images, bins, concepts):
    """The light in red for alpha = 0, in green for any other: what is green already stays."""
    light, lit = (images + 1).amax(dim=1), (bins > 0).long()
    edited = torch.zeros_like(images)
    edited[torch.arange(len(images)), lit] = light
    return edited - 1


def unchanged(images, bins, concepts):
    return images


def marked(images, bins, concepts):
    """An invisible mark, 3 levels in every second column, is put on for alpha = 0, and taken off where it is."""
    mark = torch.zeros_like(images)
    mark[..., ::2] = 3 / 127.5
    is_marked = (images[:, 2, :, 0] - images[:, 2, :, 1]).mean(dim=1) > 2 / 127.5
    there, back = bins == 0, (bins > 0) & is_marked
    return images + mark * (there.float() - back.float())[:, None, None, None]


def retrieved(images, bins, concepts):
    """A real image of the wanted kind, the same for all."""
    of_kinds = torch.cat([images_of(1, 0, RED), images_of(1, 1, GREEN)]).float() / 127.5 - 1
    return of_kinds[(bins > 0).long()]


def run_of(generator, num_concepts=1):
    """Five anomalies, whose score is above a half."""
    detector = FormulaDetector(lambda images: 2 * (images[:, 1] - images[:, 0]).mean(dim=(1, 2)))
    model = FittedModel(
        detector=detector, generator=generator, concept_classifier=None, num_concepts=num_concepts, num_alpha_bins=2
    )
    sources = images_of(5, 1, GREEN)
    return MetricInputs(
        splits=splits_of(sources, sources), model=model, explain=None, fit_detector=None, device=CPU, seed=0,
        explanations=explain_images(model, image_set(sources), CPU, threshold=0.0), cache_dir=None,
        test_normal_logits=None,
    )


def test_bins_by_hand():
    logits = torch.tensor([-50.0, math.log(0.24 / 0.76), math.log(0.26 / 0.74), 0.01, 50.0])
    assert alpha_bins_of(logits, 4).tolist() == [0, 0, 1, 2, 3]
    assert alpha_bins_of(logits, 2).tolist() == [0, 0, 0, 1, 1]


def test_each_image_in_its_bin_and_concept(monkeypatch):
    """G adds ten levels a concept and one a bin; the images are in parts of three."""
    monkeypatch.setattr("cfexplain.metrics.reversibility.BATCH_SIZE", 3)

    def added(images, bins, concepts):
        return images + ((10 * concepts + bins) / 127.5)[:, None, None, None]

    images = torch.full((4, 2, 1, 2, 2), 100, dtype=torch.uint8)
    edited = applied(run_of(added).model, images, torch.tensor([0, 1, 2, 3]), CPU)
    assert edited[..., 0, 1, 1].tolist() == [[100, 110], [101, 111], [102, 112], [103, 113]]


def test_distances_by_hand():
    """Concept 0 takes 30 levels of green on the way to normal and 1 to keep, concept 1 the double of both."""
    def darker(images, bins, concepts):
        levels = torch.where(bins == 0, 30.0, 1.0) * (1 + concepts)
        edited = images.clone()
        edited[:, 1] -= (levels / 127.5)[:, None, None]
        return edited

    values = SPEC.compute(run_of(darker, num_concepts=2))
    level = 1 / 3 / 127.5  # of one of three channels
    expected = {
        "composition": 1.0, "composition_repeated": 10.0, "reversibility": 31.0, "reversibility_way": 30.0,
    }  # fmt: skip
    for key, levels in expected.items():
        assert values[key] == pytest.approx(1.5 * levels * level)
    assert values["composition_repeated_concept_1"] == pytest.approx(20 * level)
    assert values["reversibility_low"] <= values["reversibility"] <= values["reversibility_high"]


@pytest.mark.parametrize(("generator", "kept", "back"), [
    (repainted, 0.0, 0.0),  # the ideal edit
    (marked, 0.0, 0.0),  # an invisible mark: not told from the ideal
    (retrieved, 2 / 3 / 127.5, 2 / 3 / 127.5),  # of the five images the one retrieved is 2 levels off, on the mean
])  # fmt: skip
def test_generators_whose_ways_are_known(generator, kept, back):
    values = SPEC.compute(run_of(generator))
    assert values["composition"] == values["composition_repeated"] == pytest.approx(kept)
    assert values["reversibility"] == pytest.approx(back)
    assert values["reversibility_way"] > 0.01


def test_no_way_back_is_no_merit(planted):
    for generator in (unchanged, lambda images, bins, concepts: torch.where(
        (bins == 0)[:, None, None, None], repainted(images, bins, concepts), images
    )):
        with pytest.warns(CfexplainWarning, match="no way back"):
            assert SPEC.compute(run_of(generator)) == {}
    with pytest.warns(CfexplainWarning, match="no way back"):
        assert SPEC.compute(planted) == {}  # its generator keeps whatever is not asked to be normal


def test_images_that_score_like_normal_ones_do_not_count():
    inputs = run_of(repainted)
    logits = inputs.explanations.source_logits
    logits[1:] = -3.0
    inputs.explanations.images[1:] = 0
    assert SPEC.compute(inputs)["reversibility"] == 0.0
    logits[0] = -3.0
    with pytest.warns(CfexplainWarning, match="no explained image as anomalous"):
        assert SPEC.compute(inputs) == {}
