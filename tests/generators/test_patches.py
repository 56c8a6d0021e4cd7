"""generator=patches: donors and repairs of images that are small enough to say what must come out."""

import json

import pytest
import torch
import yaml

from cfexplain.config import build
from cfexplain.data.batches import to_float, to_uint8
from cfexplain.errors import ConfigError
from cfexplain.generators.donors import crops, Donors, patch_grid
from cfexplain.generators.patches import Patches
from cfexplain.types import ImageSet, Splits
from tests.conftest import ROOT, TINY

SHAPE = (1, 16, 16)
ZERO = torch.zeros(1, dtype=torch.long)


def spec_of(**values) -> Patches:
    read = yaml.safe_load((ROOT / "conf" / "generator" / "patches.yaml").read_text(encoding="utf-8"))
    small = {"sizes": [0.25], "feather": 0.0, "interior_weight": 0.0}
    return build(read | small | values, Patches, "generator")


def ramp(offset: int = 0, channels: int = 1) -> torch.Tensor:
    """(C, 16, 16) uint8, each place other than all around it."""
    ys, xs = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    return (ys * 7 + xs * 5 + offset).expand(channels, -1, -1).byte()


def splits_of(images: torch.Tensor) -> Splits:
    labels = torch.zeros(len(images), dtype=torch.long)
    normals = ImageSet(images=images, labels=labels, classes=labels, ids=tuple(map(str, range(len(images)))))
    return Splits(train=normals, held_out=normals, exposure=None, test=normals, reference=normals, class_names=("a",),
                  factors=None)


def generator_of(donors: torch.Tensor, logits, threshold: float = 0.0, num_concepts: int = 1, **values):
    spec, splits = spec_of(**values), splits_of(donors)
    generator = spec.build_generator(splits.image_shape, 2, num_concepts).eval()
    spec.fit(generator, splits, torch.zeros(1), num_concepts, 0)
    generator.ask(logits, threshold)
    return generator


def spot(image: torch.Tensor, top: int, left: int, value: int = 255) -> torch.Tensor:
    marked = image.clone()
    marked[:, top : top + 4, left : left + 4] = value
    return marked


def whites(images: torch.Tensor) -> torch.Tensor:
    """A detector made by hand: how many pixels are white, beyond none."""
    return (images > 0.99).flatten(1).sum(dim=1).float()


def repaired(generator, image: torch.Tensor, alpha_bin: int = 0, concept: int = 0) -> torch.Tensor:
    return to_uint8(generator(to_float(image[None]), ZERO + alpha_bin, ZERO + concept))[0]


@pytest.mark.parametrize("place", ["same", "anywhere"])
def test_a_patch_that_was_swapped_is_put_back_exactly(place):
    clean = ramp()
    generator = generator_of(torch.stack([ramp(90), clean, ramp(40)]), whites, place=place, match_brightness=False)
    marked = spot(clean, 4, 8)
    assert torch.equal(repaired(generator, marked), clean)


def test_a_patch_of_another_place_is_found_anywhere_only():
    clean = ramp()
    moved = torch.roll(clean, shifts=(2, 4), dims=(1, 2))  # what lies around the spot is there, elsewhere
    marked = spot(clean, 6, 6)
    values = {"match_brightness": False, "stride": 0.25}
    found = repaired(generator_of(moved[None], whites, place="anywhere", **values), marked)
    assert torch.equal(found, clean)
    assert not torch.equal(repaired(generator_of(moved[None], whites, place="same", **values), marked), clean)


def test_outside_the_replaced_patches_every_bit_is_the_sources():
    rng = torch.Generator().manual_seed(0)
    donors = torch.randint(200, (6, 3, 16, 16), generator=rng, dtype=torch.uint8)
    marked = spot(torch.randint(200, (3, 16, 16), generator=rng, dtype=torch.uint8), 8, 4)
    found = repaired(generator_of(donors, whites, feather=0.25), marked)
    is_spot = torch.zeros(16, 16, dtype=torch.bool)
    is_spot[8:12, 4:8] = True
    assert not (found == 255).any()
    # the detector gains by patches that touch the spot alone: within 4 pixels less one of it
    near = torch.nn.functional.max_pool2d(is_spot.float()[None], 7, 1, 3)[0].bool()
    assert torch.equal(found[:, ~near], marked[:, ~near])
    assert (found != marked).any(dim=0)[is_spot].all()


def test_the_second_concept_takes_another_donor_than_the_first():
    donors = torch.stack([ramp(), ramp(3), ramp(30)])
    generator = generator_of(donors, whites, num_concepts=3, match_brightness=False, place="same")
    marked, there = spot(ramp(), 4, 8), (slice(None), slice(4, 8), slice(8, 12))
    for concept, offset in enumerate((0, 3, 30)):
        assert torch.equal(repaired(generator, marked, concept=concept)[there], ramp(offset)[there])


def test_brightness_follows_the_surroundings_and_leaves_no_seam():
    marked = spot(ramp(), 4, 8)
    generator = generator_of(ramp(30)[None], whites, place="same")
    assert torch.equal(repaired(generator, marked), ramp())


def test_what_is_normal_or_asked_for_another_score_comes_back_as_it_was():
    generator = generator_of(torch.stack([ramp(), ramp(9)]), whites, threshold=2.0)
    normal = ramp(20)
    normal[0, 0, :2] = 255  # two white pixels are within the threshold
    assert torch.equal(repaired(generator, normal), normal)
    marked = spot(ramp(), 4, 8)
    assert torch.equal(repaired(generator, marked, alpha_bin=1), marked)
    assert not torch.equal(repaired(generator, marked), marked)


def test_no_more_patches_than_the_goal_needs():
    clean = ramp()
    marked = spot(spot(clean, 0, 0), 8, 8)
    values = {"place": "same", "match_brightness": False}
    all_gone = repaired(generator_of(clean[None], whites, **values), marked)
    assert torch.equal(all_gone, clean)
    one_left = repaired(generator_of(clean[None], lambda images: whites(images) - 16, **values), marked)
    assert int((one_left == 255).sum()) == 16  # at the goal one spot of two is left
    one_patch = repaired(generator_of(clean[None], whites, max_patches=1, **values), marked)
    assert int((one_patch == 255).sum()) == 16


def test_where_small_patches_do_not_help_larger_ones_do():
    """All or nothing: the detector sees a white square of 8 x 8 as long as one of its corners is white."""
    clean, corners = ramp(), ((0, 0), (0, 7), (7, 0), (7, 7))
    marked = clean.clone()
    marked[:, 4:12, 4:12] = 255

    def any_corner(images):
        return torch.stack([images[:, 0, 4 + y, 4 + x] for y, x in corners]).gt(0.99).any(dim=0).float()

    values = {"place": "same", "match_brightness": False}
    assert torch.equal(repaired(generator_of(clean[None], any_corner, **values), marked), marked)
    assert torch.equal(repaired(generator_of(clean[None], any_corner, sizes=[0.25, 0.5], **values), marked), clean)


def test_a_patch_as_large_as_the_image_is_the_nearest_normal_image():
    donors = torch.stack([ramp(90), ramp(3), ramp(40)])
    values = {"sizes": [1.0], "feather": 0.25, "interior_weight": 0.02}
    for place in ("same", "anywhere"):
        generator = generator_of(donors, whites, place=place, num_concepts=2, **values)
        assert torch.equal(repaired(generator, spot(ramp(), 4, 8)), ramp(3))
        assert torch.equal(repaired(generator, spot(ramp(), 4, 8), concept=1), ramp(40))


def test_the_result_is_no_matter_of_what_else_is_in_the_batch():
    rng = torch.Generator().manual_seed(0)
    donors = torch.randint(200, (9, 1, 16, 16), generator=rng, dtype=torch.uint8)
    sources = torch.stack([spot(donors[i], 2 * i, 3 * i) for i in range(4)])
    generator = generator_of(donors, whites, num_concepts=2, feather=0.25)
    concepts = torch.tensor([0, 1, 0, 1])
    together = generator(to_float(sources), torch.zeros(4, dtype=torch.long), concepts)
    for row in range(4):
        assert torch.equal(to_uint8(together[row]), repaired(generator, sources[row], concept=int(concepts[row])))


def test_patches_reach_the_edges_and_blend_only_within_the_image():
    grid = patch_grid((1, 18, 16), share=0.25, stride=0.5, ring=0.5)
    assert sorted(set(grid.tops.tolist())) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sorted(set(grid.lefts.tolist())) == [0, 2, 4, 6, 8, 10, 12]
    blending = grid.blending(1)
    corner, middle = (int(torch.where((grid.tops == at) & (grid.lefts == at))[0]) for at in (0, 4))
    assert blending[corner, 0, 0].tolist() == [1, 1, 1, 0.5]
    assert blending[middle, 0, 0].tolist() == [0.25, 0.5, 0.5, 0.25]
    assert blending[middle, 0, 1].tolist() == [0.5, 1, 1, 0.5]


def test_nearest_is_what_a_search_of_every_place_finds():
    """Against a plain search, pixel by pixel, with weight 1 around the patch and 0.1 inside."""
    rng = torch.Generator().manual_seed(1)
    donors = torch.randint(256, (3, 1, 16, 16), generator=rng, dtype=torch.uint8)
    donors = torch.nn.functional.avg_pool2d(donors.float(), 5, 1, 2).byte()  # smooth, as the search begins coarsely
    image, grid = to_float(donors[:1].flip(3)), patch_grid(SHAPE, 0.25, 1.0, 0.5)
    weights = grid.weights(0.1, image.device)
    framed = torch.nn.functional.pad(to_float(donors), (grid.ring,) * 4, value=-3)
    places = torch.tensor([5, 10])  # in the middle of the image
    found = Donors(images=donors, is_fixed=False, interior=0.1, shifts_brightness=False).patches(
        image, torch.zeros(2, dtype=torch.long), places, torch.zeros(2, dtype=torch.long), grid
    )
    tops, lefts = (corner - grid.ring for corner in grid.corners(places))
    windows = crops(image, torch.zeros(2, dtype=torch.long), tops, lefts, (8, 8))
    for window, patch in zip(windows, found):
        every = framed.unfold(2, 8, 1).unfold(3, 8, 1)[:, 0].reshape(-1, 8, 8)
        distances = ((every - window) ** 2 * weights).sum(dim=(1, 2))
        mine = ((every[:, 2:6, 2:6] - patch).abs().sum(dim=(1, 2)) < 1e-4).nonzero().flatten()
        assert distances[mine].min() <= 1.5 * distances.min() + 1e-4


def test_saved_donors_come_back_though_they_are_fewer_than_wanted():
    generator = generator_of(torch.stack([ramp(), ramp(9)]), whites, num_donors=5)
    fresh = spec_of(num_donors=5).build_generator(SHAPE, 2, 1)
    fresh.load_state_dict(generator.state_dict())
    assert torch.equal(fresh.donors, torch.stack([ramp(), ramp(9)])) and fresh.goal == generator.goal


def test_which_donors_are_kept_depends_on_the_seed_alone():
    splits = splits_of(torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 16, 16))
    spec = spec_of(num_donors=10)
    kept = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        generator = spec.build_generator(SHAPE, 2, 1)
        spec.fit(generator, splits, torch.zeros(1), 1, seed)
        kept[name] = generator.donors[:, 0, 0, 0].tolist()
    assert kept["one"] == kept["same"] != kept["other"] and len(set(kept["one"])) == 10


def test_more_concepts_than_donors_are_refused():
    with pytest.raises(ConfigError, match="each of the 3 concepts takes another donor, and there are 2"):
        generator_of(torch.stack([ramp(), ramp(9)]), whites, num_concepts=3)


@pytest.mark.parametrize(("name", "value"), [
    ("sizes", []), ("sizes", [1.5]), ("stride", 0.0), ("feather", 0.6), ("interior_weight", 2.0), ("max_patches", 0),
    ("num_donors", 0), ("level", 1.5),
])
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        spec_of(**{name: value})


def test_train_explain_and_evaluate_without_a_game(cfexplain, tmp_path):
    """Two concepts on glyphs; exposure=none and dsvdd, which the trained generator cannot do."""
    tiny = [text for text in TINY if not text.startswith(("generator.", "exposure."))]
    words = [*tiny, "detector=dsvdd", "exposure=none", "generator=patches", "generator.num_donors=40", "run_dir=t"]
    done = cfexplain("train", *words)
    assert done.code == 0, done.stderr
    history = [json.loads(line)["stage"] for line in (tmp_path / "t" / "history.jsonl").read_text().splitlines()]
    assert set(history) == {"detector"}
    saved = torch.load(tmp_path / "t" / "checkpoints" / "generator.pt", weights_only=True)
    assert saved["generator"]["donors"].shape == (40, 3, 28, 28) and "concept_classifier" not in saved
    assert cfexplain("train", *words).code == 0  # again: nothing is trained twice
    again = torch.load(tmp_path / "t" / "checkpoints" / "generator.pt", weights_only=True)
    assert torch.equal(saved["generator"]["donors"], again["generator"]["donors"])
    assert cfexplain("explain", "run=t", "run_dir=x", "second_detector=none").code == 0
    metrics = "metric=[validity,concept,distance,alpha]"
    done = cfexplain("evaluate", "run=x", "run_dir=e", metrics, "metric.concept.num_steps=5")
    assert done.code == 0, done.stderr
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert "concept_accuracy_fresh" in found and "concept_accuracy_joint" not in found
    assert "concept_accuracy_joint left out: the generator" in done.stdout
