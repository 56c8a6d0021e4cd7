"""What the sentences say of known changes, and what they must not say."""

import re

import pytest
import torch

from cfexplain.inspection.base import VERDICTS, Inspection, Verdict
from cfexplain.inspection.changes import measured_change
from cfexplain.inspection.sentences import change_words, listed, percent, position_words, sentences
from cfexplain.types import Explanations
from tests.inspection.formulas import image_set
from tests.inspection.test_changes import drawn

GREEN = drawn((20, 200, 20))
RED = drawn((200, 20, 20))
TALL = drawn((20, 200, 20), rows=slice(2, 26), columns=slice(12, 16))
ALTERATIONS = ("png", "jpeg", "shift", "blur", "second_detector")


def inspection_of(*verdicts, failures=(), before=1.0, after=(0.42, 0.613, 0.05)) -> Inspection:
    """One green square with these verdicts under its concepts: red, tall, red."""
    num_concepts = len(verdicts)
    images = torch.stack([RED, TALL, RED][:num_concepts])[None, None].expand(1, 2, -1, -1, -1, -1)
    survives = torch.tensor([name not in failures for name in ALTERATIONS]).expand(1, num_concepts, -1)
    return Inspection(
        explanations=Explanations(
            sources=image_set(GREEN[None]), images=images, logits=torch.zeros(1, 2, num_concepts),
            source_logits=torch.ones(1), threshold=0.0,
        ),
        verdict_codes=torch.tensor([[VERDICTS.index(verdict) for verdict in verdicts]]),
        position_before=torch.tensor([before]), position_after=torch.tensor([after[:num_concepts]]),
        alterations=ALTERATIONS, survives=survives, manifold_distance=torch.full((1, num_concepts), 1.274),
        duplicate_of=torch.zeros(1, num_concepts, dtype=torch.long), way_logits=torch.zeros(1, num_concepts, 9),
        repairs=images[:, 0], repair_logits=torch.zeros(1, num_concepts), heatmaps=torch.zeros(1, 28, 28),
        nearest=GREEN[None], nearest_ids=("train/0",),
        plausible=GREEN[None],
    )


def test_two_ways_are_alternatives():
    first, second, third = sentences(inspection_of(Verdict.ok, Verdict.ok), 0)
    assert first == "This image does not count as normal: its score is higher than all of the normal images."
    assert second == (
        "It would count as normal either with the colour changed from green to red and the shape kept (100 % overlap), "
        "18 % of the image altered, mostly in the middle (concept 0); or with another shape (only 25 % overlap) and "
        "the colour kept (green), 18 % of the image altered, mostly in the middle (concept 1)."
    )
    assert third == ("Its score is then higher than 42.0 % of the normal images (concept 0) and higher than 61.3 % of "
                     "the normal images (concept 1).")


def test_one_way_and_one_not_to_rely_on():
    said = sentences(inspection_of(Verdict.ok, Verdict.adversarial, failures=("jpeg", "second_detector")), 0)
    assert "either" not in said[1] and "(concept 0)" in said[1] and "concept 1" not in said[1]
    assert said[2] == ("Do not rely on concept 1: it no longer counts as normal after it is saved as JPEG or for a "
                       "second detector.")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.not_flipped, "concept 1 is not enough: its score stays higher than 61.3 % of the normal images"),
        (Verdict.duplicate, "concept 1 makes the same change as concept 0"),
        (Verdict.off_manifold, "concept 1, with another shape (only 25 % overlap) and the colour kept (green), 18 % of "
                               "the image altered, mostly in the middle, counts as normal but is not like the normal "
                               "images (1.27 times the distance that 99 % of them keep)"),
    ],
)
def test_doubts(verdict, words):
    assert sentences(inspection_of(Verdict.ok, verdict), 0)[2] == words[0].upper() + words[1:] + "."


def test_nothing_to_rely_on():
    said = sentences(inspection_of(Verdict.not_flipped, Verdict.duplicate), 0)
    assert said[1] == "None of the changes tried is a reliable example of what would count as normal."
    assert said[2].count(";") == 1 and said[2].startswith("Concept 0 is not enough")


def test_already_normal_explains_nothing():
    said = sentences(inspection_of(Verdict.already_normal, Verdict.already_normal, before=0.61), 0)
    assert said == ["This image counts as normal: its score is higher than 61.0 % of the normal images.",
                    "There was nothing to explain."]


def test_never_more_than_three_sentences_and_no_cause():
    for verdicts in ([a, b, c] for a in VERDICTS[1:] for b in VERDICTS[1:] for c in VERDICTS[1:]):
        said = sentences(inspection_of(*verdicts, failures=("jpeg",)), 0)
        assert len(said) == 3
        text = " ".join(said)
        assert not re.search(r"\b(because|caused?|due to|reason|defect|fault)\b", text), text
        for concept, verdict in enumerate(verdicts):  # nothing is dropped
            assert f"concept {concept}" in text.lower(), (verdict, text)


def test_one_concept_reads_well():
    said = sentences(inspection_of(Verdict.ok), 0)
    assert said[2] == "Its score is then higher than 42.0 % of the normal images (concept 0)."


def test_grey_and_textured_images_get_brighter_or_darker():
    rng = torch.Generator().manual_seed(0)
    texture = torch.randint(60, 120, (1, 32, 32), generator=rng, dtype=torch.uint8)
    spot = texture.clone()
    spot[:, 2:8, 2:8] = 240
    words = change_words(measured_change(spot, texture))
    assert words == "0 % of the image brighter and 3.5 % darker, mostly in the upper left"  # and no outline
    assert change_words(measured_change(GREEN[1:2], TALL[1:2])) == (
        "another shape (only 25 % overlap), 6.1 % of the image brighter and 12 % darker, mostly in the middle"
    )


def test_darker_without_another_colour():
    words = change_words(measured_change(GREEN, drawn((10, 110, 10))))
    assert words.startswith("the colour kept (green, but darker) and the shape kept (100 % overlap), 0 % of the image")


def test_what_no_eye_sees_is_said_to_be_so():
    faint = GREEN.clone()
    faint[:, ::2] += 3
    assert change_words(measured_change(GREEN, faint)) == (
        "changes that are hardly visible (0.6 % of the range from black to white on average)"
    )


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (0.0004, "less than 0.1 %"), (0.034, "3.4 %"), (0.0996, "10 %"), (0.12, "12 %"),
     (0.998, "99 %")],
)
def test_percent(share, words):
    assert percent(share) == words


@pytest.mark.parametrize(("position", "words"), [
    (1.0, "higher than all of the normal images"), (0.99996, "higher than 99.9 % of the normal images"),
    (0.61, "higher than 61.0 % of the normal images"), (0.0001, "higher than 0.1 % of the normal images"),
    (0.0, "not higher than any of the normal images"),
])
def test_a_position_is_not_rounded_to_all_or_none(position, words):
    assert position_words(position) == words


def test_lists():
    assert [listed(part) for part in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"


def test_coloured_digits_say_which_factor_changed(glyph_changes):
    """Real digits: recoloured ones name both colours, replaced ones another shape and the same colour."""
    recoloured, reshaped = glyph_changes
    assert all("the colour changed from" in words and "the shape kept" in words for words in recoloured)
    right = ["shape" in words and "the colour kept" in words and "the shape kept" not in words for words in reshaped]
    assert sum(right) >= 0.9 * len(right)


@pytest.fixture(scope="module")
def glyph_changes(tmp_path_factory):
    from cfexplain.data.exposures.letters import Letters
    from cfexplain.data.datasets.glyphs import Glyphs

    splits = Glyphs(
        cache_dir=str(tmp_path_factory.mktemp("cache")), held_out_fraction=0.25, normal=["1"], anomalous=None,
        normal_colours=["red"], train_size=40, test_size=120, reference_size=60, seed=0,
    ).load(Letters(limit=40, seed=0))  # fmt: skip
    anomalies, rule = splits.test_anomalies, splits.factors
    num_colours, reference = len(rule.colour_names), splits.reference
    numbers = reference.classes.tolist()
    ones = {n % num_colours: image for image, n in zip(reference.images, numbers) if n // num_colours == 1}
    recoloured, reshaped = [], []
    for image, number in zip(anomalies.images, anomalies.classes.tolist()):
        red = torch.stack([image.amax(dim=0), torch.zeros(28, 28).byte(), torch.zeros(28, 28).byte()])
        recoloured.append(change_words(measured_change(image, red)))
        reshaped.append(change_words(measured_change(image, ones[number % num_colours])))
    return recoloured, reshaped
