"""Networks: what each may and may not see."""

import math

import pytest
import torch

from cfexplain.generators.blocks import cell_means, DirectionClassifier, PairClassifier, ProjectionDiscriminator
from cfexplain.generators.conv import ConditionalGenerator


def random_images(n: int, channels: int = 3, size: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_direction_classifier_sees_the_edit_alone_and_not_its_size():
    torch.manual_seed(0)
    classifier = DirectionClassifier(3, 2, grid=2, noise=0.5)
    edit = random_images(4, seed=1) * 0.2 + 0.1
    one, other = random_images(4, seed=2) * 0.1, random_images(4, seed=3) * 0.1
    torch.testing.assert_close(classifier(one, one + edit), classifier(other, other + edit), atol=1e-4, rtol=0)
    doubled = classifier(one, one + 2 * edit)  # eps in the norm leaves about 1 % of the length
    torch.testing.assert_close(classifier(one, one + edit), doubled, atol=0.1, rtol=0)


def test_direction_classifier_does_not_see_a_fine_mark_and_the_pair_classifier_does():
    torch.manual_seed(0)
    source = random_images(2)
    checkers = ((torch.arange(28)[:, None] + torch.arange(28)) % 2 * 2.0 - 1) * 0.1
    edited = source + 0.3
    direction, pair = DirectionClassifier(3, 2, grid=2, noise=0.0), PairClassifier(3, 8, 2, 2).eval()
    torch.testing.assert_close(direction(source, edited + checkers), direction(source, edited), atol=1e-5, rtol=0)
    assert not torch.allclose(pair(source, edited + checkers), pair(source, edited), atol=1e-5)


def make_generator(shape, source_skip=2.0, exact_skip=False, condition_spread=0.0) -> ConditionalGenerator:
    return ConditionalGenerator(
        shape, 8, 1, 1, 2, num_alpha_bins=2, num_concepts=2, source_skip=source_skip, exact_skip=exact_skip,
        condition_spread=condition_spread, head_width=8, joins_stem=True,
    )


@pytest.mark.parametrize("source_skip", [0.0, 2.0])
@pytest.mark.parametrize("exact_skip", [False, True])
def test_without_an_edit_the_source_passes_as_far_as_the_skip_lets_it(source_skip, exact_skip):
    generator, images = make_generator((3, 28, 28), source_skip, exact_skip), random_images(2)
    torch.nn.init.zeros_(generator.head.weight), torch.nn.init.zeros_(generator.head.bias)
    zeros = torch.zeros(2, dtype=torch.long)
    limit = math.tanh(source_skip)
    wanted = images.clamp(-limit, limit) if exact_skip else (source_skip * images).tanh()
    torch.testing.assert_close(generator(images, zeros, zeros), wanted)


@pytest.mark.parametrize(("spread", "is_same"), [(0.0, True), (0.02, False)])
def test_concepts_differ_from_the_start_only_if_spread(spread, is_same):
    torch.manual_seed(0)
    generator, images = make_generator((3, 28, 28), condition_spread=spread), random_images(1)
    zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    assert torch.equal(generator(images, zero, zero), generator(images, zero, one)) == is_same


def test_generator_output_does_not_depend_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    generator = make_generator((3, 28, 28))
    images, bins, concepts = random_images(6), torch.tensor([0, 1] * 3), torch.tensor([0, 0, 1] * 2)
    whole = generator(images, bins, concepts)
    alone = torch.cat([generator(images[i : i + 1], bins[i : i + 1], concepts[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


def test_generator_reads_its_condition_and_keeps_odd_sizes():
    torch.manual_seed(0)
    generator = make_generator((1, 29, 31))
    for name in ("scale", "shift"):  # rows start equal; training makes them differ
        torch.nn.init.normal_(getattr(generator.head_norm, name).weight)
    images = torch.rand(1, 1, 29, 31)
    zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    outputs = [generator(images, a, k) for a in (zero, one) for k in (zero, one)]
    assert all(output.shape == images.shape and output.abs().max() <= 1 for output in outputs)
    assert all(not torch.allclose(outputs[i], outputs[j]) for i in range(4) for j in range(i))


def test_discriminator_judges_by_bin():
    torch.manual_seed(0)
    discriminator = ProjectionDiscriminator(3, 8, 2, 2, 2).eval()
    images = random_images(3)
    real = discriminator(images, torch.zeros(3, dtype=torch.long))
    assert not torch.allclose(real, discriminator(images, torch.ones(3, dtype=torch.long)))


@pytest.mark.parametrize(("size", "grid"), [((28, 28), 2), ((30, 7), 4), ((5, 6), 5)])
def test_cell_means_are_those_of_adaptive_pooling(size, grid):
    images = torch.rand(2, 3, *size)
    torch.testing.assert_close(cell_means(images, grid), torch.nn.functional.adaptive_avg_pool2d(images, grid))
