"""Pseudo-anomalies drawn for each batch: blobs and mixtures, masks that say where, new ones in every step."""

import numpy as np
import pytest
import torch
import yaml

from cfexplain.config import build
from cfexplain.data.batches import TrainingImages
from cfexplain.data.exposures.base import ExposureSpec, PseudoAnomalies
from cfexplain.data.exposures.mixed import Mixed
from cfexplain.engine.seeding import step_generator
from cfexplain.errors import ConfigError
from cfexplain.types import ImageSet, Splits
from tests.conftest import ROOT

CPU = torch.device("cpu")
KINDS = ("blobs", "confetti", "cutpaste", "dents", "scratches")


def spec(kind, **changes):
    values = yaml.safe_load((ROOT / "conf" / "exposure" / f"{kind}.yaml").read_text(encoding="utf-8"))
    return build(values | changes, ExposureSpec, "exposure")


def mixed():
    kinds = {kind: spec(kind) for kind in KINDS}
    return Mixed(limit=None, seed=0, kinds=kinds)


def parts(count=12, side=32, channels=1):
    """A dark square on a bright ground; both with some noise."""
    images = torch.randint(190, 220, (count, channels, side, side), generator=torch.Generator().manual_seed(0))
    images[:, :, side // 4 : side // 2, side // 4 : side // 2] -= 120
    return images.byte()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def splits(images, fresh):
    count = torch.zeros(len(images), dtype=torch.long)
    normals = ImageSet(images=images, labels=count, classes=count, ids=tuple(map(str, range(len(images)))))
    return Splits(train=normals, held_out=normals, exposure=normals, test=normals, reference=normals,
                  class_names=("part",), factors=None, fresh=fresh)


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_say_where_an_image_was_altered(kind, channels):
    images = parts(channels=channels)
    before = images.clone()
    maker = mixed() if kind == "mixed" else spec(kind)
    altered, masks = maker.altered(images, generator())
    assert torch.equal(images, before) and altered.dtype == torch.uint8 and altered.shape == images.shape
    change = (altered.short() - images.short()).abs().amax(dim=1)
    assert torch.equal(masks, change > 5) and masks.flatten(1).any(dim=1).all()
    assert (change == 0).float().mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides(kind):
    first, again, other = (spec(kind).altered(parts(), generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and (first != other).flatten(1).any(dim=1).all()


def test_what_does_not_show_is_drawn_again():
    class Rare(PseudoAnomalies):
        draws = 0

        def draw(self, images, generator):
            self.__class__.draws += 1
            altered = images.clone()
            altered[0, 0, 0, self.draws] = 255 if self.draws == 2 else altered[0, 0, 0, self.draws]
            altered[1, 0, 0, self.draws] = 255
            return altered

    altered, masks = Rare(limit=None, seed=0).altered(torch.zeros(2, 1, 4, 8, dtype=torch.uint8), generator())
    assert masks.nonzero().tolist() == [[0, 0, 2], [1, 0, 1]]  # the first draw of one image, the second of the other
    assert altered.nonzero().tolist() == [[0, 0, 0, 2], [1, 0, 0, 1]] and Rare.draws == 2


def test_blobs_have_their_area_and_their_place():
    images = parts(300)
    area = (0.02, 0.021)
    common = {"min_area": area[0], "max_area": area[1], "min_strength": 1.0, "max_aspect": 1.0, "roughness": 0.0}
    for share, low, high in ((1.0, 0.8, 1.0), (0.0, 0.0, 0.2)):
        _, masks = spec("blobs", object_share=share, **common).altered(images, generator())
        on_part = masks[:, 8:16, 8:16].flatten(1).any(dim=1).float().mean()  # the part is 1/16 of the image
        assert low <= on_part <= high
    # A blob of another shade: its outline is soft, so more pixels change than its area has, at most twice as many.
    sizes = masks.flatten(1).float().mean(dim=1)
    assert area[0] * 0.5 < sizes.median() < area[1] * 2


def test_a_longer_blob_is_thinner():
    common = {"min_area": 0.02, "max_area": 0.021, "roughness": 0.0, "object_share": 0.0, "min_strength": 1.0}
    spreads = []
    for aspect in (1.0, 30.0):
        _, masks = spec("blobs", max_aspect=aspect, **common).altered(parts(200, 64), generator())
        places = [np.argwhere(mask.numpy()) for mask in masks]
        spreads.append(np.mean([np.linalg.eigvalsh(np.cov(p.T) + 0.1 * np.eye(2)) for p in places if len(p) > 4], 0))
    assert spreads[1][1] > 3 * spreads[0][1] and spreads[1][0] < spreads[0][0]


def test_mixed_gives_each_kind_its_part_of_the_batch():
    class Painted(PseudoAnomalies):
        def draw(self, images, generator):
            return torch.full_like(images, self.seed)

    both = Mixed(limit=None, seed=0, kinds={f"by_{shade}": Painted(limit=None, seed=shade) for shade in (50, 90)})
    altered, _ = both.altered(parts(5), generator())
    assert altered[:, 0, 0, 0].tolist() == [50, 50, 50, 90, 90]
    assert len(both.altered(parts(1), generator())[0]) == 1


def test_each_step_learns_from_new_ones_made_of_its_own_normals():
    images = parts(6)
    data = TrainingImages(splits(images, spec("blobs").altered), CPU)
    seen = []
    for step in (0, 1, 0):
        randomness = step_generator(0, step)
        drawn = data.batch(data.draw(4, randomness), randomness)
        assert len(drawn.images) == 8 and drawn.origins.shape == (4, 1, 32, 32) and drawn.masks.shape == (4, 32, 32)
        difference = (drawn.images[4:].short() - drawn.origins.short()).abs().amax(dim=1) > 5
        assert torch.equal(difference, drawn.masks)
        assert all((origin == images).flatten(1).all(dim=1).any() for origin in drawn.origins)
        seen.append(drawn.images)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_a_set_of_its_own_is_drawn_as_it_is():
    data = TrainingImages(splits(parts(6), None), CPU)
    drawn = data.batch(data.draw(4, generator()), generator())
    assert drawn.origins is None and drawn.masks is None and not data.is_varied


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"min_area": 0.3}, "min_area"), ({"max_aspect": 0.5}, "max_aspect"), ({"max_warp": 0.9}, "max_warp"),
     ({"min_strength": 2.0}, "min_strength"), ({"object_share": -1.0}, "object_share")],
)  # fmt: skip
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        spec("blobs", **changes)


def test_a_straight_scratch_by_hand():
    flat = torch.full((40, 1, 64, 64), 100, dtype=torch.uint8)
    lines = spec("scratches", max_bend=0.0, min_length=0.25, max_length=0.25, min_width=0.03125, max_width=0.03125,
                 min_contrast=50, max_contrast=50, object_share=0.0)
    change = lines.draw(flat, generator()).float() - 100
    # 16 pixels long and 2 wide, where it does not leave the image; up or down, not both
    inside = change[change.abs().flatten(1).amax(1) >= 45]
    assert len(inside) == 40 and (inside.abs().sum(dim=(1, 2, 3)) / 50).median().item() == pytest.approx(32, rel=0.05)
    assert change.abs().max() == 50 and ((change >= 0).flatten(1).all(1) ^ (change <= 0).flatten(1).all(1)).all()
    assert 5 < (change.sum(dim=(1, 2, 3)) > 0).sum() < 35


def test_a_dent_moves_what_is_there_by_as_much_as_it_may():
    ramp = torch.arange(64).mul(3).byte().expand(40, 1, 64, 64)  # 3 levels a pixel
    moved = spec("dents", max_warp=0.05).draw(ramp, generator()).float() - ramp.float()
    middle = moved[..., 8:-8]  # at the border it is a reflection
    assert 0.4 * 3.2 * 3 < middle.abs().amax() <= 3.2 * 3 + 1  # 5 % of 64 are 3.2 pixels
    assert (moved == 0).float().mean() > 0.9
