"""JPEG, shift and blur by hand."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from cfexplain.metrics.survival import Alterations, blurred, shifted, through_jpeg


def test_jpeg_changes_noise_and_keeps_a_flat_picture():
    images = torch.randint(256, (3, 3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert through_jpeg(images[:, :1], 75).shape == images[:, :1].shape
    jpeg = through_jpeg(images, 75)
    assert jpeg.shape == images.shape and not torch.equal(jpeg, images)
    flat = torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)
    assert (through_jpeg(flat, 75).int() - 90).abs().max() <= 2


def test_channels_are_not_mixed_up():
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[0, 0] = 200
    decoded = through_jpeg(image, 95)
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


def test_pillow_blur_is_close():
    image = torch.randint(256, (1, 1, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = np.asarray(Image.fromarray(image[0, 0].numpy()).filter(ImageFilter.GaussianBlur(0.5)), dtype=float)
    ours = blurred(image, 0.5)[0, 0].numpy().astype(float)
    # Pillow approximates the Gaussian by box filters; on noise of spread 74 the two agree within a few levels
    assert np.abs(ours - theirs).mean() < 8


def test_functions_have_the_strengths_they_were_given():
    images = torch.randint(256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    functions = Alterations(jpeg_quality=60, shift_pixels=2, blur_sigma=0.7).functions
    expected = {
        "jpeg": through_jpeg(images, 60), "shift": shifted(images, 2),
        "blur": blurred(images, 0.7),
    }  # fmt: skip
    assert list(functions) == list(expected)
    for name, altered in expected.items():
        assert torch.equal(functions[name](images), altered), name


@pytest.mark.parametrize(
    ("name", "value"), [("jpeg_quality", 96), ("jpeg_quality", 0), ("shift_pixels", 0), ("blur_sigma", 1.0)]
)
def test_strengths_out_of_range_are_refused(name, value):
    usual = dict(jpeg_quality=75, shift_pixels=1, blur_sigma=0.5)
    with pytest.raises(ValueError, match=name):
        Alterations(**usual | {name: value})
