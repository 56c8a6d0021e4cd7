"""The Gaussian of patches: values by hand, what it finds in pictures, its place in a run."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from cfexplain.detectors.base import build_detector, logits_of
from cfexplain.detectors.bce import Bce
from cfexplain.detectors.gaussian import fit_gaussian, Gaussian, moments, PatchGaussian, whitening
from cfexplain.encoders.conv import Conv
from cfexplain.encoders.lite0 import Lite0
from cfexplain.encoders.pretrained import FeatureMaps, ImageNetPixels
from cfexplain.errors import ConfigError
from cfexplain.metrics.auroc import auroc
from cfexplain.types import ImageSet, Splits

BCE = Bce(embedding_dim=4, steps=1, batch_size=2, learning_rate=1e-3, weight_decay=0.0)
SPEC = Gaussian(grid=0, neighbourhood=1, map_layers=None, top_share=0.1, shrinkage=0.01, stand_in=BCE)
ENCODER = Lite0(weights=None, layers=(1, 2), trainable=False, normalize_exposure=False)
CPU = torch.device("cpu")


class Halves(nn.Module):
    """Two maps: the pixels, and the mean of each 2x2 of them."""

    def forward(self, pixels):
        return [pixels, nn.functional.avg_pool2d(pixels, 2)]


def network(grid: int = 0, top_share: float = 1.0, neighbourhood: int = 1) -> PatchGaussian:
    pixels = ImageNetPixels((0.0,), (0.5,))  # (v + 1) / 2 / 0.5: black is 0, white 2
    spec = dataclasses.replace(SPEC, grid=grid, top_share=top_share, neighbourhood=neighbourhood)
    return PatchGaussian(FeatureMaps(pixels, Halves(), (1, 1), trainable=False), spec)


def grey(n: int, seed: int, spot: bool = False) -> ImageSet:
    images = torch.randint(90, 130, (n, 1, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if spot:
        images[:, :, 20:26, 4:10] = 230
    labels = torch.full((n,), int(spot))
    return ImageSet(images=images, labels=labels, classes=labels, ids=tuple(f"{seed}/{i}" for i in range(n)))


@pytest.fixture(scope="module")
def splits() -> Splits:
    train = grey(60, 0)
    return Splits(train=train, held_out=grey(40, 1), exposure=None, test=grey(20, 2, spot=True), reference=train,
                  class_names=("plain", "spot"), factors=None)


@pytest.fixture(scope="module")
def fitted(splits):
    return fit_gaussian(SPEC, ENCODER, splits, 0, CPU)


def test_mean_and_covariance_do_not_depend_on_the_batches():
    patches = torch.randn(6, 2, 2, 3, generator=torch.Generator().manual_seed(0)) + 1000  # far from 0: digits are lost
    count, mean, covariance = moments(iter(patches.split(4)))
    flat = patches.flatten(0, 2).double()
    assert count == 24
    torch.testing.assert_close(mean, flat.mean(dim=0))
    torch.testing.assert_close(covariance, torch.cov(flat.T, correction=0), rtol=1e-9, atol=1e-9)


def test_whitening_by_hand():
    # variances 4 and 2 with nothing added: 1 / 2 and 1 / sqrt(2)
    covariance = torch.tensor([[4.0, 0.0], [0.0, 2.0]]).double()
    torch.testing.assert_close(whitening(covariance, 1e-12), torch.tensor([[0.5, 0.0], [0.0, 0.5**0.5]]).double())
    # a third of the mean variance, 3, on top: 5 and 3
    made = whitening(covariance, 1 / 3)
    torch.testing.assert_close(made.T @ made, torch.tensor([[1 / 5, 0.0], [0.0, 1 / 3]]).double())
    assert whitening(torch.zeros(2, 2).double(), 0.01).isfinite().all()  # features that never vary


def test_distances_and_score_by_hand():
    image = torch.full((1, 1, 2, 2), -1.0)  # pixels 0, 0, 0, 2; their mean 0.5 everywhere
    image[0, 0, 1, 1] = 1.0
    detector = network()
    detector.mean.copy_(torch.tensor([0.0, 0.5]))
    detector.whitening.copy_(torch.diag(torch.tensor([3.0, 1.0])))
    # the fourth patch lies 3 * 2 away in the first of two features: sqrt(36 / 2)
    expected = torch.tensor([[0.0, 0.0], [0.0, 18**0.5]])
    torch.testing.assert_close(detector.distances(image)[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(detector(image), torch.tensor([[18**0.5 / 4]]), atol=1e-5, rtol=0)
    nearer = network(top_share=0.5)
    nearer.load_state_dict(detector.state_dict())
    torch.testing.assert_close(nearer(image), torch.tensor([[18**0.5 / 2]]), atol=1e-5, rtol=0)
    assert network(top_share=0.0001)(image).isfinite().all()  # one patch at the least
    assert network(grid=1).distances(image).shape == (1, 1, 1)


def test_a_neighbourhood_is_averaged_inside_the_image():
    image = torch.full((1, 1, 4, 4), -1.0)
    image[0, 0, 0, 0] = 1.0  # 2 at a corner
    patches = network(neighbourhood=3).patches(image)[0]
    # of four places at the corner and of nine at the next one on the diagonal; the mean of four is 0.5, of all 0.125
    torch.testing.assert_close(patches[:2, :2, 0], torch.tensor([[2 / 4, 2 / 6], [2 / 6, 2 / 9]]))
    torch.testing.assert_close(patches[..., 1], torch.full((4, 4), 0.125))
    with pytest.raises(ValueError, match="neighbourhood must be odd"):
        dataclasses.replace(SPEC, neighbourhood=2)


def test_half_at_the_95_percent_quantile_and_a_tenth_at_the_median(fitted, splits):
    detector, message = fitted
    scores = logits_of(detector, splits.held_out.images).sigmoid().double()
    assert scores.quantile(0.95).item() == pytest.approx(0.5, abs=1e-3)
    # torch's median of 40 is the 20th of them
    assert scores.median().item() == pytest.approx(0.1, abs=1e-3)
    assert "40 features of 15,360 patches in 60 images" in message


def test_it_finds_the_spot_and_where_it_is(fitted, splits):
    detector, _ = fitted
    held_out, anomalous = (logits_of(detector, part.images) for part in (splits.held_out, splits.test))
    assert auroc(held_out.numpy(), anomalous.numpy()) > 0.95
    images = splits.test.images.float() / 127.5 - 1
    with torch.no_grad():
        maps = detector.score_map(images)
    assert maps.shape == (20, 32, 32)
    inside = maps[:, 20:26, 4:10].mean(dim=(1, 2))
    assert (inside > 1.5 * maps.mean(dim=(1, 2))).all()
    assert build_detector(BCE, ENCODER, (1, 32, 32), 0).score_map(images) is None


def test_a_map_of_the_first_layers_alone_has_a_gaussian_of_its_own(splits, fitted):
    both, alone, coarse = (
        fit_gaussian(dataclasses.replace(SPEC, **values), encoder, splits, 0, CPU)[0]
        for values, encoder in (
            ({"map_layers": 2}, ENCODER), ({}, dataclasses.replace(ENCODER, layers=(1,))),
            ({"map_layers": 1, "grid": 1}, ENCODER),
        )
    )
    images = splits.test.images.float() / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(both.score_map(images), fitted[0].score_map(images))
        # scored on the coarse grid, shown on the fine one, of the first layer
        torch.testing.assert_close(coarse.score_map(images), alone.score_map(images), rtol=1e-4, atol=1e-4)
        assert coarse.encoder.distances(images).shape == (20, 8, 8)


def test_a_gradient_reaches_the_image_and_leads_back_to_normal(fitted, splits):
    detector, _ = fitted
    images = (splits.test.images[:4].float() / 127.5 - 1).requires_grad_(True)
    detector.log_probs(images).log_normal.sum().backward()
    assert images.grad.isfinite().all()
    spot, rest = images.grad[:, :, 20:26, 4:10].abs().mean(), images.grad[:, :, :12, 16:].abs().mean()
    assert spot > 10 * rest
    with torch.no_grad():
        moved = images + 0.02 * images.grad.sign()
        assert (detector.log_probs(moved).logit < detector.log_probs(images).logit).all()


def test_another_build_with_its_state_scores_the_same(fitted, splits):
    detector, _ = fitted
    again = build_detector(SPEC, ENCODER, (1, 32, 32), seed=9)
    again.load_state_dict(detector.state_dict())
    again.train()  # its batch norms stay as they are
    torch.testing.assert_close(logits_of(again, splits.test.images), logits_of(detector, splits.test.images))
    assert not any(part.requires_grad for part in again.parameters())


def test_a_single_held_out_image_gives_a_scale_too(splits):
    few = dataclasses.replace(splits, held_out=splits.held_out[:1])
    detector, _ = fit_gaussian(SPEC, ENCODER, few, 0, CPU)
    assert logits_of(detector, few.held_out.images).sigmoid().item() == pytest.approx(0.5, abs=1e-3)
    assert detector.scale.item() == pytest.approx(0.02 * detector.centre.item() / math.log(9))


def test_an_encoder_without_maps_and_a_grid_that_is_not_there_are_refused():
    with pytest.raises(ConfigError, match="encoder=lite0 or encoder=timm"):
        build_detector(SPEC, Conv(width=4), (1, 32, 32), 0)
    with pytest.raises(ConfigError, match="detector.grid=2, but encoder.layers has 2"):
        build_detector(dataclasses.replace(SPEC, grid=2), ENCODER, (1, 32, 32), 0)
    with pytest.raises(ValueError, match="shrinkage must be > 0"):
        dataclasses.replace(SPEC, shrinkage=0.0)
