"""The U-Net that says where it edits: outside the region the source, bit for bit; sizes, conditions."""

import pytest
import torch

from cfexplain.generators.base import edited
from cfexplain.generators.unet import UnetGenerator


def generator(channels=3, concepts=1, levels=2, patch=2) -> UnetGenerator:
    torch.manual_seed(0)
    return UnetGenerator(channels, 8, levels, patch, 4, num_alpha_bins=2, num_concepts=concepts)


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def zeros(count):
    return torch.zeros(count, dtype=torch.long)


def test_outside_its_region_an_image_is_the_source_bit_for_bit():
    network, sources = generator(), images(2, 3, 32, 32)
    torch.nn.init.zeros_(network.head.weight), torch.nn.init.constant_(network.head.bias, 3.0)  # it draws near white
    white = torch.full_like(sources, 3.0).tanh()
    for logit, in_training, in_use in ((0.0, 0.5, 0.5), (-2.5, 0.0759, 0.0), (2.5, 0.9241, 1.0)):
        torch.nn.init.constant_(network.head.bias[3:], logit)
        for is_training, region in ((True, in_training), (False, in_use)):
            found, where = edited(network.train(is_training), sources, zeros(2), zeros(2))
            torch.testing.assert_close(found, sources + region * (white - sources), atol=1e-4, rtol=0)
            torch.testing.assert_close(where.drawn, white)
            assert where.logits.shape == (2, 1, 32, 32) and (where.logits == logit).all()
    torch.nn.init.constant_(network.head.bias[3:], -2.5)
    assert torch.equal(network.eval()(sources, zeros(2), zeros(2)), sources)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 32, 32), (3, 29, 35), (1, 64, 40)])
def test_any_size_comes_back_as_it_is(channels, height, width):
    sources = images(2, channels, height, width)
    found = generator(channels)(sources, zeros(2), zeros(2))
    assert found.shape == sources.shape and found.abs().max() <= 1 and not torch.equal(found, sources)


def test_alpha_and_concept_make_a_difference_once_their_rows_differ():
    network, source = generator(concepts=2).eval(), images(1, 3, 32, 32)
    one = zeros(1) + 1
    assert torch.equal(network(source, zeros(1), zeros(1)), network(source, one, one))
    torch.nn.init.constant_(network.stem.norm_1.shift.weight[1], 1.0)  # the condition alpha bin 0, concept 1
    same, other = network(source, one, one), network(source, zeros(1), one)
    assert torch.equal(network(source, one, zeros(1)), same) and not torch.equal(same, other)
