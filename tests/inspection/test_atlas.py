"""The atlas of planted concepts: what is counted, where edits lie, which of them stand for one, which are one."""

import math
from dataclasses import replace

import pytest
import torch

from cfexplain.inspection.atlas import AtlasBuilder, Sample, accuracy_margin, concept_accuracy, medoids
from cfexplain.inspection.base import VERDICTS, Inspection, Verdict
from cfexplain.types import Explanations
from tests.inspection.formulas import image_set

OK, FAILED, NORMAL = (VERDICTS.index(v) for v in (Verdict.ok, Verdict.not_flipped, Verdict.already_normal))


def build_atlas(inspections):
    first, *others = inspections
    builder = AtlasBuilder(first)
    for inspection in (first, *others):
        builder.add(inspection)
    return builder.atlas()


def planted(count, seed=0, same=False, marked=False) -> Inspection:
    """Concept 0 adds red at the left, concept 1 light at the right.

    same: concept 1 does what concept 0 does, both with noise; marked: with a faint square in the middle beside it.
    """
    rng = torch.Generator().manual_seed(seed)
    sources = torch.randint(40, 90, (count, 3, 24, 24), generator=rng, dtype=torch.uint8)
    edited = sources[:, None].repeat(1, 2, 1, 1, 1)
    strengths = torch.randint(60, 120, (count, 1, 1), generator=rng, dtype=torch.uint8)
    edited[:, 0, 0, :, :8] += strengths
    if same or marked:
        edited[:, 1] = edited[:, 0]
        edited += torch.randint(0, 20, edited.shape, generator=rng, dtype=torch.uint8)
        edited[:, 1, :, 10:14, 10:14] += 40 * marked
    else:
        edited[:, 1, :, :, 16:] += strengths[:, None]
    codes = torch.full((count, 2), OK)
    return inspection_of(sources, edited, codes)


def inspection_of(sources, edited, codes) -> Inspection:
    count, num_concepts = codes.shape
    zeros = torch.zeros(count, num_concepts)
    return Inspection(
        explanations=Explanations(
            sources=image_set(sources), images=edited[:, None].expand(-1, 2, -1, -1, -1, -1),
            logits=zeros[:, None].expand(-1, 2, -1), source_logits=torch.ones(count), threshold=0.0,
        ),
        verdict_codes=codes, position_before=torch.ones(count), position_after=zeros, alterations=("png",),
        survives=torch.ones(count, num_concepts, 1, dtype=torch.bool), manifold_distance=zeros,
        duplicate_of=torch.full((count, num_concepts), -1), way_logits=torch.zeros(count, num_concepts, 9),
        repairs=edited, repair_logits=zeros, heatmaps=torch.zeros(count, *sources.shape[2:]), nearest=sources,
        nearest_ids=("train/0",) * count, plausible=sources,
    )


def test_counts_and_shares_by_hand():
    inspection = planted(6)
    inspection.verdict_codes.copy_(torch.tensor(
        [[NORMAL, NORMAL], [OK, OK], [OK, FAILED], [OK, FAILED], [FAILED, OK], [FAILED, FAILED]]
    ))  # fmt: skip
    atlas = build_atlas([inspection])
    assert (atlas.num_images, atlas.num_anomalies) == (6, 5)
    first, second = atlas.concepts
    assert first.verdicts[Verdict.ok] == 3 and first.verdicts[Verdict.not_flipped] == 2
    assert sum(first.verdicts.values()) == 6 and set(first.verdicts) == set(VERDICTS)
    assert (first.repairs, first.repairs_alone) == (3 / 5, 2 / 5)
    assert (second.repairs, second.repairs_alone) == (2 / 5, 1 / 5)


def test_where_edits_lie_and_what_they_change():
    atlas = build_atlas([planted(40)])
    left, right = atlas.concepts
    assert (left.place, right.place) == ("on the left side", "on the right side")
    assert left.energy.sum().item() == pytest.approx(1.0) and left.energy[:, :8].sum().item() == pytest.approx(1.0)
    assert left.mean_change[0] > 0.25 and left.mean_change[1:] == (0, 0)
    assert right.mean_change[0] == pytest.approx(right.mean_change[2]) and right.mean_change[0] > 0.25
    assert atlas.overlap[0, 1].item() == pytest.approx(0.0, abs=1e-6)
    assert atlas.overlap.diagonal().tolist() == pytest.approx([1, 1])


def test_different_concepts_are_told_apart():
    atlas = build_atlas([planted(40)])
    assert atlas.accuracy == 1.0 and atlas.warning is None


def test_equal_concepts_are_warned_of():
    atlas = build_atlas([planted(60, same=True)])
    assert atlas.overlap[0, 1] > 0.95
    assert atlas.accuracy <= 0.5 + atlas.margin
    assert "can hardly be told apart" in atlas.warning and "chance is 50%" in atlas.warning


def test_a_faint_mark_makes_no_other_concept():
    atlas = build_atlas([planted(60, marked=True)])
    assert atlas.accuracy == 1.0  # a classifier needs no more than the mark
    assert "a mean cosine of 0.9" in atlas.warning


def test_batches_do_not_matter(monkeypatch):
    monkeypatch.setattr("cfexplain.inspection.atlas.SAMPLE_IMAGES", 15)
    whole = planted(50)

    def part(rows):
        explanations, chosen = whole.explanations, torch.tensor(rows).long()
        explanations = replace(
            explanations, sources=explanations.sources.select(chosen), images=explanations.images[chosen],
            logits=explanations.logits[chosen], source_logits=explanations.source_logits[chosen],
        )
        return replace(whole, explanations=explanations, verdict_codes=whole.verdict_codes[rows])

    one = build_atlas([whole])
    other = build_atlas(iter([part(list(range(7))), part([]), part(list(range(7, 50)))]))
    assert one.sample_ids == other.sample_ids and len(one.sample_ids) == 15
    assert one.sample_ids != whole.explanations.sources.ids[:15]  # drawn from all, not the first
    assert torch.equal(one.sample_counterfactuals, other.sample_counterfactuals)
    for first, second in zip(one.concepts, other.concepts):
        assert first.examples == second.examples and torch.equal(first.energy, second.energy)
    assert one.accuracy == other.accuracy and torch.equal(one.overlap, other.overlap)


def test_the_sample_is_drawn_alike(monkeypatch):
    monkeypatch.setattr("cfexplain.inspection.atlas.SAMPLE_IMAGES", 100)
    sources = torch.zeros(2000, 1, 8, 8, dtype=torch.uint8)
    atlas = build_atlas([inspection_of(sources, sources[:, None], torch.full((2000, 1), OK))])
    numbers = torch.tensor([int(name.split("/")[1]) for name in atlas.sample_ids]).double()
    assert len(numbers.unique()) == 100
    assert abs(numbers.mean() - 1000) < 3 * 577 / 10  # a uniform draw's mean, three standard errors


def test_large_images_are_sampled_less():
    like = planted(1)
    explanations = replace(like.explanations, images=torch.zeros(1, 1, 1, 1, 1, 1).byte().expand(1, 2, 2, 3, 800, 800))
    sample = Sample(replace(like, explanations=explanations))
    assert sample.limit == 20
    assert Sample(like).limit == 500


def test_examples_are_ok_ones_where_there_are_any():
    inspection = planted(30)
    inspection.verdict_codes[:, 0] = FAILED
    inspection.verdict_codes[[3, 17, 21, 22], 0] = OK
    inspection.verdict_codes[:, 1] = FAILED
    first, second = build_atlas([inspection]).concepts
    assert len(first.examples) == 3 and set(first.examples) <= {3, 17, 21, 22}
    assert len(second.examples) == 3  # none is ok and none is accepted: of all


def test_medoids_by_hand():
    places = torch.tensor([[0.0], [1.0], [2.0], [3.0], [20.0], [21.0], [100.0]])
    assert medoids(places, [0, 1, 2, 3, 4, 5])[:2] == (2, 4)
    assert medoids(places, [5, 6]) == (5, 6)
    assert medoids(places, []) == ()
    assert medoids(torch.zeros(4, 1), [0, 1, 2, 3]) == (0, 1, 2)  # equal ones are still different examples


def test_accuracy_of_random_edits_is_chance():
    directions = torch.randn(400, 3, 20, generator=torch.Generator().manual_seed(0))
    assert concept_accuracy(directions) == pytest.approx(1 / 3, abs=3 * math.sqrt(2 / 9 / 400))
    assert math.isnan(concept_accuracy(directions[:, :1])) and math.isnan(concept_accuracy(directions[:1]))


def test_accuracy_does_not_learn_the_image_it_judges():
    """Each image has an edit of its own, the same under both concepts: only one who has seen it could tell them."""
    directions = torch.eye(20)[:, None].repeat(1, 2, 1)
    directions[:, 1] += 0.01 * torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    assert concept_accuracy(directions) < 0.75


def test_margin_grows_where_there_are_few_images():
    assert accuracy_margin(2, 10_000) == 0.1
    assert accuracy_margin(2, 16) == pytest.approx(2 * 0.5 / 4)


def test_one_concept_has_nothing_to_compare():
    inspection = planted(10)
    explanations = replace(inspection.explanations, images=inspection.explanations.images[:, :, :1])
    atlas = build_atlas([replace(inspection, explanations=explanations, verdict_codes=inspection.verdict_codes[:, :1])])
    assert math.isnan(atlas.accuracy) and atlas.warning is None and atlas.overlap.shape == (1, 1)


def test_no_anomaly_at_all():
    inspection = planted(3)
    inspection.verdict_codes.fill_(NORMAL)
    atlas = build_atlas([inspection])
    assert (atlas.num_images, atlas.num_anomalies, atlas.sample_ids) == (3, 0, ())
    assert atlas.concepts[0].examples == () and atlas.concepts[0].repairs == 0 and atlas.warning is None
