"""CutPaste: what is pasted, how much changes and where, scaling, seeds."""

import math

import numpy as np
import pytest
import torch
import yaml

from cfexplain.config import build
from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec, load_exposure
from cfexplain.data.exposures.cutpaste import jittered, pasted
from cfexplain.errors import ConfigError
from tests.conftest import ROOT

CONF = ROOT / "conf" / "exposure" / "cutpaste.yaml"


def spec(**changes):
    return build(yaml.safe_load(CONF.read_text(encoding="utf-8")) | changes, ExposureSpec, "exposure")


def request(normals):
    return ExposureRequest(normals=normals, learned=normals, others=None, class_names=(), cache_dir="")


def noise(count, height, width, channels=3):
    return np.random.default_rng(0).integers(60, 200, (count, channels, height, width), dtype=np.uint8)


def changed(made, normals):
    """(N, H, W) bool; each made image beside the normal one it is nearest to."""
    nearest = [min(normals, key=lambda normal: (image != normal).sum()) for image in made]
    return (made != np.stack(nearest)).any(axis=1)


def box(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@pytest.mark.parametrize("size", [(40, 40), (96, 64)])
def test_patches_have_the_size_they_should(size):
    normals = noise(3, *size)
    made = spec(limit=150, scar_share=0.0).pictures(request(normals)).images
    areas, aspects = [], []
    for mask in changed(made, normals):
        rows, columns = box(mask)
        assert mask[rows, columns].mean() > 0.95  # one full rectangle; a pixel may meet its like
        height, width = rows.stop - rows.start, columns.stop - columns.start
        areas.append(height * width / (size[0] * size[1]))
        aspects.append(height / width)
    # whole pixels: sides of 3 to 20 are rounded by up to half a pixel
    assert 0.012 < min(areas) < 0.04 and 0.13 < max(areas) < 0.17
    assert 1 / 4.5 < min(aspects) < 0.45 and 2.2 < max(aspects) < 4.5
    assert 0.3 < np.mean(np.array(aspects) > 1) < 0.7


def test_scars_are_thin_turned_and_scale_with_the_image():
    shares = []
    for side in (64, 256):
        normals = noise(2, side, side, 1)
        made = spec(limit=200, scar_share=1.0).pictures(request(normals)).images
        shares.append(changed(made, normals).mean(axis=(1, 2)))
    # mean area 9 x 17.5 pixels of 256 x 256
    assert shares[1].mean() == pytest.approx(9 * 17.5 / 256**2, rel=0.1)
    assert shares[0].mean() == pytest.approx(shares[1].mean(), rel=0.25)  # of 64 px it is 2 x 4 pixels, rounded
    assert shares[1].max() <= 16.5 * 25.5 / 256**2 * 1.1


def test_half_of_each_kind():
    normals = noise(2, 128, 128, 1)
    made = spec(limit=300).pictures(request(normals)).images
    is_scar = changed(made, normals).mean(axis=(1, 2)) < 0.01
    assert 0.4 < is_scar.mean() < 0.6  # four standard deviations are 0.12


def test_what_is_pasted_is_a_part_of_the_image():
    """Without jitter, and with each pixel unique, every changed pixel names the place it was cut from."""
    side = 48
    places = [*np.mgrid[:side, :side], np.zeros((side, side))]  # the colour of pixel (y, x) is y, x, 0
    image = np.stack(places).astype(np.uint8)[None]
    for made in spec(limit=60, scar_share=0.0, jitter=0.0).pictures(request(image)).images:
        mask = (made != image[0]).any(axis=0)
        rows, columns = box(mask)
        ys, xs = np.mgrid[rows, columns]
        moves = {(int(dy), int(dx)) for dy, dx in zip((made[0, rows, columns] - ys).ravel().astype(int),
                                                      (made[1, rows, columns] - xs).ravel().astype(int))}
        assert len(moves) == 1  # all of it is moved by the same step


def one(*values):
    return (torch.tensor([float(value)]) for value in values)


def test_a_quarter_turn_by_hand():
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, :2, :3] = torch.tensor([[1, 2, 3], [4, 5, 6]])
    top_left = torch.tensor([[0.0], [0.0], [0.99], [0.99]])  # cut at the first place there is, pasted at the last
    cuts, is_cut = pasted(image, *one(2, 3, math.pi / 2), top_left)
    rows, columns = box(is_cut[0].numpy())
    assert (rows, columns) == (slice(2, 5), slice(3, 5)) and is_cut.sum() == 6
    assert cuts[0, 0, rows, columns].tolist() in ([[4, 1], [5, 2], [6, 3]], [[3, 6], [2, 5], [1, 4]])
    cuts, is_cut = pasted(image, *one(2, 3, 0.0), top_left)
    rows, columns = box(is_cut[0].numpy())
    assert (rows, columns) == (slice(3, 5), slice(2, 5))
    assert cuts[0, 0, rows, columns].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("degrees", [10, 30, 45, -45])
def test_a_turned_scar_keeps_its_area(degrees):
    image = torch.zeros(1, 1, 80, 80, dtype=torch.uint8)
    _, is_cut = pasted(image, *one(40, 12, math.radians(degrees)), torch.full((4, 1), 0.3))
    assert int(is_cut.sum()) == pytest.approx(40 * 12, rel=0.03)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_by_hand(channels):
    images = torch.full((2, channels, 4, 4), 100, dtype=torch.uint8)
    images[:, :, :, 2:] = 200
    everywhere = torch.ones(2, 4, 4, dtype=torch.bool)
    assert torch.equal(jittered(images, everywhere, torch.zeros(4, 2)), images)
    shakes = torch.tensor([[0.1, 0.0], [0.0, 0.2], [0.3, 0.3], [0.1, 0.1]])  # no grey has a saturation or a hue
    brighter, steeper = jittered(images, everywhere, shakes)
    assert brighter[:, 0, [0, 3]].tolist() == [[110, 220]] * channels
    assert steeper[:, 0, [0, 3]].tolist() == [[90, 210]] * channels  # around the mean, 150
    assert jittered(images, images[:, 0] > 150, shakes)[1][0, 0, [0, 3]].tolist() == [80, 200]  # around 200


def test_a_third_of_a_turn_of_the_hue_keeps_the_brightness():
    red = torch.tensor([150, 100, 100], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    turned = jittered(red, torch.ones(1, 2, 2, dtype=torch.bool), torch.tensor([[0.0], [0.0], [0.0], [1 / 3]]))
    brightness = (torch.tensor([0.299, 0.587, 0.114]) * turned[0, :, 0, 0]).sum()
    assert brightness == pytest.approx(0.299 * 150 + 0.701 * 100, abs=1) and turned[0, 0, 0, 0] < 110


def test_images_on_black_still_change():
    normals = np.zeros((5, 1, 32, 32), dtype=np.uint8)
    normals[:, :, 12:20, 14:18] = 200
    exposure = load_exposure(spec(limit=100), request(normals))
    assert len(exposure) > 90  # those equal to a normal image are removed


def test_the_seed_decides():
    normals = noise(10, 32, 32)
    normals[:] = normals[:1]  # all alike, so that the order of the sources makes no difference
    first, again, other = (spec(limit=20, seed=seed).pictures(request(normals)).images for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"min_area": 0.3}, "min_area"), ({"max_aspect": 0.5}, "max_aspect"), ({"jitter": 0.9}, "jitter"),
     ({"scar_share": 2.0}, "scar_share"), ({"min_scar_width": 20}, "min_scar_width"),
     ({"max_rotation": 100}, "max_rotation")],
)  # fmt: skip
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        spec(**changes)
