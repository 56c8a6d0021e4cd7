"""The U-Net that says where it edits: outside the region the source, bit for bit; sizes, conditions."""

import dataclasses

import pytest
import torch

from cfexplain.generators.base import edited
from cfexplain.generators.unet import Unet, UnetGenerator

SPEC = Unet(
    width=8, num_downsamplings=2, patch=2, head_width=4, sees_score_map=False, false_region_rate=0.25, inpaints=False,
    rises=True, discriminator_width=4, discriminator_blocks=1, concept_width=4, concept_blocks=1,
)


def generator(channels=3, concepts=1, **values) -> UnetGenerator:
    torch.manual_seed(0)
    return dataclasses.replace(SPEC, **values).build_generator((channels, 32, 32), 2, concepts)


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
    torch.nn.init.zeros_(network.head.bias)  # somewhere it edits
    one = zeros(1) + 1
    assert torch.equal(network(source, zeros(1), zeros(1)), network(source, one, one))
    torch.nn.init.constant_(network.stem.norm_1.shift.weight[1], 1.0)  # the condition alpha bin 0, concept 1
    same, other = network(source, one, one), network(source, zeros(1), one)
    assert torch.equal(network(source, one, zeros(1)), same) and not torch.equal(same, other)


def region_logits(network, values):
    """Make the region's logit of each pixel be `values`, (H, W), whatever the image."""
    torch.nn.init.zeros_(network.head.weight)
    network.head.register_forward_hook(
        lambda module, inputs, drawn: torch.cat([drawn[:, :-1], values.expand(len(drawn), 1, -1, -1)], dim=1)
    )


def test_a_quarter_of_the_normals_pixels_may_belong_to_the_region_of_alpha_0():
    network, values = generator().eval(), torch.linspace(-9.0, -1.0, 32 * 32).view(32, 32)
    region_logits(network, values)
    normals = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    for _ in range(2):  # a second time says the same
        network.calibrate(normals)
        assert network.level.item() == pytest.approx(-3.0, abs=0.01)  # three quarters of the way
    sources = images(1, 3, 32, 32)
    torch.nn.init.constant_(network.head.bias, 3.0)
    changes = (network(sources, zeros(1), zeros(1)) - sources).abs().amax(dim=1)[0]
    # the region's edge: 1.2 sigmoid(l - level) = 0.1 at l = level - 2.4
    assert torch.equal(changes > 0, values > -3.0 - 2.398)
    one = zeros(1) + 1
    assert torch.equal(network(sources, one, zeros(1)) != sources, (values > -2.398).expand(1, 3, -1, -1))


def test_in_training_the_level_follows_what_the_batch_s_normal_images_have():
    network, values = generator(), torch.linspace(-9.0, -1.0, 32 * 32).view(32, 32)
    region_logits(network, values)
    network.track(values.expand(4, 1, -1, -1))
    assert network.level.item() == pytest.approx(0.05 * -3.0, abs=1e-3)
    for _ in range(200):
        network.track(values.expand(4, 1, -1, -1))
    assert network.level.item() == pytest.approx(-3.0, abs=0.02)
    sources = images(1, 3, 32, 32)
    edits, region = edited(network, sources, zeros(1), zeros(1))
    expected = sources + (values + 3.0).sigmoid() * (region.drawn - sources)
    torch.testing.assert_close(edits, expected, atol=0.01, rtol=0)


def test_it_sees_the_score_map_of_a_detector_that_has_one():
    network, sources = generator(sees_score_map=True).eval(), images(2, 3, 32, 32)
    torch.nn.init.normal_(network.head.weight)
    without = network(sources, zeros(2), zeros(2))
    network.score_map = lambda seen: torch.ones(len(seen), *seen.shape[2:])  # as normal as can be: log 1
    assert torch.equal(network(sources, zeros(2), zeros(2)), without)
    network.score_map = lambda seen: torch.rand(len(seen), *seen.shape[2:]) + 1
    assert not torch.equal(network(sources, zeros(2), zeros(2)), without)
    assert not any("score_map" in name for name in network.state_dict())


def test_weights_of_before_there_was_a_level_are_read():
    network = generator()
    state = {name: value for name, value in network.state_dict().items() if name != "level"}
    network.level.fill_(3.0)
    network.load_state_dict(state)
    assert network.level == 0


@pytest.mark.parametrize(("inpaints", "sees_what_it_replaces"), [(True, False), (False, True)])
def test_what_is_inpainted_owes_nothing_to_what_it_replaces(inpaints, sees_what_it_replaces):
    network, values = generator(inpaints=inpaints).train(), torch.full((32, 32), -2.5)
    values[8:20, 4:16] = -2.3  # in use the region begins at -2.398
    region_logits(network, values)
    torch.nn.init.normal_(network.head.weight)
    sources = images(2, 3, 32, 32)
    defect, elsewhere = sources.clone(), sources.clone()
    defect[:, :, 8:20, 4:16] *= -1
    elsewhere[:, :, 7, 4] *= -1
    (_, before), (_, after), (_, aside) = (edited(network, x, zeros(2), zeros(2)) for x in (sources, defect, elsewhere))
    assert torch.equal(before.drawn, after.drawn) != sees_what_it_replaces
    assert not torch.equal(before.drawn, aside.drawn)


def test_both_networks_learn_from_the_edit():
    network, sources = generator(inpaints=True), images(2, 3, 32, 32)
    edited(network, sources, zeros(2), zeros(2))[0].square().mean().backward()
    assert network.stem.conv_1.weight.grad.abs().sum() > 0 and network.painter.stem.conv_1.weight.grad.abs().sum() > 0


def test_a_generator_that_does_not_rise_gives_the_image_back_for_any_other_alpha():
    sources = images(2, 3, 32, 32)
    for is_training in (True, False):
        network = generator(rises=False).train(is_training)
        torch.nn.init.zeros_(network.head.bias)
        found = network(sources, torch.tensor([0, 1]), zeros(2))
        assert not torch.equal(found[0], sources[0]) and torch.equal(found[1], sources[1])


@pytest.mark.parametrize("rate", [-0.1, 0.6])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="false_region_rate must lie between 0 and 0.5"):
        dataclasses.replace(SPEC, false_region_rate=rate)
