"""Flips and shifts: each image becomes a mirrored, shifted copy of itself, drawn on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfexplain.data.batches import augmented, turned
from cfexplain.types import Augmentation

SIDE = (7, 9)  # unlike sides: an exchange of the two would show


def images(count: int) -> torch.Tensor:
    """(N, 3, 7, 9) uint8 noise: no two shifts of an image are alike."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, *SIDE), generator=generator, dtype=torch.uint8)


def drawn(sources: torch.Tensor, flip: bool, padding: int, seed: int = 0) -> torch.Tensor:
    augmentation = Augmentation(flip=flip, crop_padding=padding)
    return augmented(sources, augmentation, torch.Generator().manual_seed(seed))


def found_as(source: np.ndarray, result: np.ndarray, padding: int) -> list[tuple[bool, int, int]]:
    """(is flipped, top, left) of every crop of the padded image, or of its mirror image, that equals the result."""
    matches = []
    for is_flipped in (False, True):
        mirrored = source[:, :, ::-1] if is_flipped else source
        padded = np.pad(mirrored, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                crop = padded[:, top : top + SIDE[0], left : left + SIDE[1]]
                if (crop == result).all():
                    matches.append((is_flipped, top, left))
    return matches


def test_none_and_zero_leave_images_alone():
    sources = images(20)
    assert augmented(sources, None, torch.Generator()) is sources
    assert (drawn(sources, flip=False, padding=0) == sources).all()


@pytest.mark.parametrize("padding", [0, 1, 3])  # from 4 on a crop of 9 columns can equal a mirrored one
@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_one_crop_of_its_padded_self(flip, padding):
    sources = images(200)
    results = drawn(sources, flip, padding)
    assert results.dtype == torch.uint8 and results.shape == sources.shape
    where = [found_as(a, b, padding) for a, b in zip(sources.numpy(), results.numpy(), strict=True)]
    assert [len(matches) for matches in where] == [1] * 200
    flips, tops, lefts = (np.array(column) for column in zip(*(matches[0] for matches in where), strict=True))
    # 200 fair coins: outside 70 to 130 once in 50,000 runs.
    assert 70 < flips.sum() < 130 if flip else not flips.any()
    # 200 draws of at most 7 offsets: each offset, the outermost too, comes up.
    assert set(tops) == set(lefts) == set(range(2 * padding + 1))
    if padding:
        assert (tops != lefts).any()


def test_the_widest_padding_is_still_a_reflection():
    # 6 rows are all that reflection has for a height of 7.
    sources = images(50)
    results = drawn(sources, flip=False, padding=6)
    assert all(found_as(a, b, 6) for a, b in zip(sources.numpy(), results.numpy(), strict=True))


def test_the_same_generator_gives_the_same_and_another_another():
    sources = images(50)
    assert (drawn(sources, True, 3) == drawn(sources, True, 3)).all()
    assert (drawn(sources, True, 3) != drawn(sources, True, 3, seed=1)).any()


@pytest.mark.gpu
def test_a_gpu_draws_what_the_cpu_draws():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    sources = images(50)
    results = drawn(sources.cuda(), True, 3)
    assert results.is_cuda and (results.cpu() == drawn(sources, True, 3)).all()


def test_a_quarter_turn_and_a_brighter_light_by_hand():
    square = torch.arange(16, dtype=torch.float32).view(1, 1, 4, 4)
    torch.testing.assert_close(turned(square, torch.tensor([torch.pi / 2])), square.rot90(1, (2, 3)), atol=1e-3, rtol=0)
    wide = torch.zeros(1, 1, 21, 41)
    wide[:, :, 9:12, 15:26] = 100.0  # 11 wide, 3 high: turned by 90 degrees it is 3 wide, 11 high, and not squeezed
    upright = turned(wide, torch.tensor([torch.pi / 2]))
    torch.testing.assert_close(upright[0, 0, 5:16, 19:22], torch.full((11, 3), 100.0), atol=1e-2, rtol=0)


def test_turns_and_gains_stay_within_their_bounds():
    sources = torch.full((300, 1, 8, 8), 100, dtype=torch.uint8)
    lit = augmented(sources, Augmentation(flip=False, crop_padding=0, exposure=0.1), torch.Generator().manual_seed(0))
    levels = lit[:, 0, 0, 0]
    assert (lit == levels[:, None, None, None]).all() and 90 <= levels.min() < 93 and 107 < levels.max() <= 110
    bar = torch.zeros(300, 1, 33, 33, dtype=torch.uint8)
    bar[:, :, 15:18] = 200
    tilted = augmented(bar, Augmentation(flip=False, crop_padding=0, rotation=10), torch.Generator().manual_seed(0))
    ends = tilted[:, 0, :, -1].float().argmax(dim=1) - 16.0  # 16 pixels from the middle: 2.8 at 10 degrees
    assert ends.min() < -1.5 and ends.max() > 0.5 and ends.abs().max() <= 4.5
