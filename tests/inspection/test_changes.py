"""What a change looks like, measured by hand on drawn images."""

import pytest
import torch

from cfexplain.inspection.changes import EVERYWHERE, measured_change, place_of, silhouette
from cfexplain.inspection.changes import colour_name, is_other_colour


def drawn(colour, rows=slice(8, 20), columns=slice(8, 20), ground=0, size=28):
    """A rectangle of that RGB colour on a grey ground."""
    image = torch.full((3, size, size), ground, dtype=torch.uint8)
    image[:, rows, columns] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return image


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 20, 30), "red"), ((230, 0, 20), "red"), ((250, 140, 10), "orange"), ((120, 70, 20), "brown"),
        ((230, 220, 20), "yellow"), ((20, 180, 40), "green"), ((10, 200, 210), "cyan"), ((20, 30, 200), "blue"),
        ((120, 20, 220), "purple"), ((230, 20, 220), "magenta"), ((10, 10, 20), "black"), ((128, 125, 120), "grey"),
        ((250, 250, 245), "white"),
    ],
)  # fmt: skip
def test_colour_names(rgb, name):
    assert colour_name(*rgb) == name


def test_the_palette_of_coloured_digits_keeps_its_names():
    from cfexplain.data.datasets.coloured import PALETTE

    for name, rgb in PALETTE.items():
        for brightness in (1.0, 0.5):  # strokes are blurred at their edges
            expected = "grey" if name == "white" and brightness < 1 else name
            assert colour_name(*(brightness * channel for channel in rgb)) == expected


def test_brightness_makes_no_other_colour():
    assert not is_other_colour((200, 0, 0), (90, 0, 0))
    assert not is_other_colour((60, 60, 60), (250, 250, 250))
    assert not is_other_colour((200, 10, 0), (200, 60, 0))  # red and orange, but 14 degrees apart
    assert not is_other_colour((200, 0, 100), (200, 15, 0))  # magenta and red, 35 degrees apart across 0
    assert is_other_colour((200, 0, 0), (0, 200, 0))
    assert is_other_colour((200, 0, 0), (100, 100, 100))


def test_recoloured():
    change = measured_change(drawn((20, 200, 20)), drawn((200, 20, 20)))
    assert change.colours == ("green", "red") and change.outline_overlap == 1.0
    assert change.share == pytest.approx(144 / 784) and change.brighter == change.darker == 0
    assert change.mean == pytest.approx(144 / 784 * 2 / 3 * 180 / 255)
    assert change.place == "in the middle"


def test_reshaped_on_any_ground():
    for ground in (0, 255):
        source = drawn((20, 200, 20), ground=ground)
        change = measured_change(source, drawn((20, 200, 20), rows=slice(4, 24), columns=slice(11, 17), ground=ground))
        assert change.colours == ("green", "green")
        assert change.outline_overlap == pytest.approx(72 / (144 + 120 - 72))


def test_grown_keeps_its_colour():
    """Where only something new appears, the part that changes was black before: that is not the shape's colour."""
    change = measured_change(drawn((20, 20, 220)), drawn((20, 20, 220), rows=slice(8, 25)))
    assert change.colours == ("blue", "blue") and abs(change.light) < 0.01
    assert change.brighter == pytest.approx(60 / 784) and change.darker == 0


def test_grey_images_have_no_colour():
    source, target = drawn((200, 200, 200))[:1], drawn((90, 90, 90))[:1]
    change = measured_change(source, target)
    assert change.colours is None and change.light == pytest.approx(-110 / 255)
    assert change.darker == pytest.approx(144 / 784) and change.outline_overlap == 1.0


def test_textures_have_no_outline():
    rng = torch.Generator().manual_seed(0)
    texture = torch.randint(60, 200, (3, 32, 32), generator=rng, dtype=torch.uint8)
    assert silhouette(texture) is None
    spot = texture.clone()
    spot[:, 2:8, 2:8] = torch.tensor([200, 30, 20], dtype=torch.uint8)[:, None, None]
    change = measured_change(spot, texture)
    assert change.outline_overlap is None and change.place == "in the upper left"
    assert change.colours == ("red", "grey")
    assert change.share == pytest.approx(36 / 1024, abs=0.003)


def test_in_a_photograph_the_strongest_change_names_the_colours():
    rng = torch.Generator().manual_seed(0)
    photograph = torch.randint(40, 200, (1, 32, 32), generator=rng, dtype=torch.uint8).repeat(3, 1, 1)  # grey
    sign, blue = photograph.clone(), photograph.clone()
    blue[2] += 20  # all of it gets a touch of blue
    sign[:, 12:20, 12:20] = torch.tensor([200, 30, 30], dtype=torch.uint8)[:, None, None]
    blue[:, 12:20, 12:20] = torch.tensor([30, 30, 200], dtype=torch.uint8)[:, None, None]
    assert measured_change(sign, blue).share > 0.9 and silhouette(sign) is None
    assert measured_change(sign, blue).colours == ("red", "blue")


def test_an_empty_image_has_no_outline():
    assert silhouette(torch.zeros(3, 28, 28, dtype=torch.uint8)) is None
    assert silhouette(drawn((255, 0, 0), rows=slice(1, 27), columns=slice(1, 27))) is None  # nearly everything


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [
        (slice(0, 9), slice(0, 9), "in the upper left"), (slice(0, 9), slice(19, 28), "in the upper right"),
        (slice(20, 28), slice(10, 18), "at the bottom"), (slice(19, 28), slice(0, 28), "in the lower part"),
        (slice(0, 28), slice(0, 9), "on the left side"), (slice(8, 20), slice(8, 20), "in the middle"),
        (slice(0, 28), slice(0, 28), EVERYWHERE), (slice(0, 0), slice(0, 0), EVERYWHERE),
    ],
)  # fmt: skip
def test_places(rows, columns, place):
    energy = torch.full((28, 28), 0.001)
    energy[rows, columns] = 1.0
    assert place_of(energy) == place


def test_nothing_changed():
    change = measured_change(drawn((255, 0, 0)), drawn((255, 0, 0)))
    assert change.share == change.mean == 0 and change.colours == ("red", "red") and change.outline_overlap == 1.0
