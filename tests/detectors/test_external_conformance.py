"""Each way in which a network fails to be a detector has its own line; a network that conforms has none."""

import pytest
import torch
from torch import nn

from cfexplain.detectors.external.calibration import check_conformance
from cfexplain.detectors.external.spec import ExternalNetwork, Score
from cfexplain.errors import CfexplainError, ConfigError, DataError
from tests.detectors.external_specs import Brightness, external, pictures

NORMALS, ANOMALIES = pictures(8, 0), pictures(8, 1, is_bright=True)


def failure(network: nn.Module, **values) -> str:
    with pytest.raises(CfexplainError) as caught:
        check_conformance(ExternalNetwork(external(**values), network), NORMALS, ANOMALIES)
    assert "\n" not in str(caught.value)
    assert "detector.factory=tests" in str(caught.value)  # which network
    return f"{type(caught.value).__name__}: {caught.value}"


class Convolution(nn.Module):
    """A network with a convolution, a batch norm and a dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, images):
        return self.body(images).mean(dim=(1, 2, 3))


class Of(nn.Module):
    """The brightness with something done to it."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images, images.mean(dim=(1, 2, 3)))


def test_plain_networks_conform():
    for network in (Brightness(), Convolution(), Convolution(dropout=0.5)):  # eval mode switches the dropout off
        check_conformance(ExternalNetwork(external(), network), NORMALS, ANOMALIES)
    two = Of(lambda images, mean: torch.stack([-mean, mean], dim=1))
    check_conformance(ExternalNetwork(external(class_index=1), two), NORMALS, ANOMALIES)
    sigmoid = Of(lambda images, mean: mean.sigmoid()[:, None])
    check_conformance(ExternalNetwork(external(score=Score.probability), sigmoid), NORMALS, ANOMALIES)


def test_images_of_another_size():
    said = failure(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1)))
    assert "DataError" in said and "does not take 16 images of 3x16x16" in said and "detector.height" in said
    check_conformance(
        ExternalNetwork(external(height=8, width=8), nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))), NORMALS,
        ANOMALIES,
    )


@pytest.mark.parametrize("size", [1, 16])
def test_a_batch_of_one_size_only(size):
    def only(images, mean):
        if len(images) != size:
            raise RuntimeError(f"Expected input.shape[0] to be {size}")
        return mean

    said = failure(Of(only))
    assert f"takes a batch of {size} images and not of {17 - size}" in said and "Dim.DYNAMIC" in said


def test_outputs_of_the_wrong_shape():
    assert "a map of scores" in failure(Of(lambda images, mean: images.mean(dim=1)))
    assert "batch dimension first" in failure(Of(lambda images, mean: mean.sum()))
    assert "batch dimension first" in failure(Of(lambda images, mean: images.transpose(0, 1).flatten(1).mean(dim=1)))


def test_outputs_that_need_a_choice():
    classes = Of(lambda images, mean: torch.stack([mean, -mean, 2 * mean], dim=1))
    assert "ConfigError" in failure(classes) and "set detector.class_index" in failure(classes)
    assert "detector.class_index=3" in failure(classes, class_index=3)
    assert "wants (N, classes)" in failure(Brightness(), class_index=0)
    pair = Of(lambda images, mean: {"map": images, "score": mean})
    assert "gives 2 values (map, score)" in failure(pair)
    assert "=scores is none of them" in failure(pair, output="scores")
    assert "leave it out" in failure(Brightness(), output="score")
    with pytest.raises(ConfigError):
        check_conformance(ExternalNetwork(external(), pair), NORMALS, ANOMALIES)
    check_conformance(ExternalNetwork(external(output="score"), pair), NORMALS, ANOMALIES)
    assert "gives str where a tensor" in failure(Of(lambda images, mean: "high"))


def test_values_that_are_not_finite():
    bright = failure(Of(lambda images, mean: torch.where(mean > 0.2, torch.nan, mean)))
    assert "NaN or infinite scores to 8 of 16 images" in bright


def test_a_constant():
    assert "the same score (0) to 16" in failure(Of(lambda images, mean: 0 * mean))


def test_numbers_that_are_no_probabilities():
    said = failure(Of(lambda images, mean: 10 * mean), score=Score.probability)
    assert "no probabilities" in said and "detector.score=number" in said


def test_gradients_that_do_not_come_back():
    assert "no gradient comes back" in failure(Of(lambda images, mean: mean.detach()))

    def without(images, mean):
        with torch.no_grad():
            return images.mean(dim=(1, 2, 3))

    assert "no gradient comes back" in failure(Of(without))
    assert "the gradient of" in failure(Of(lambda images, mean: torch.from_numpy(mean.numpy())))
    weight = nn.Parameter(torch.ones(1))

    def of_weights_alone(images, mean):
        return mean.detach() * weight

    network = Of(of_weights_alone)
    network.weight = weight
    assert "reaches the image" in failure(network)


def test_a_gradient_that_is_not_finite():
    """|x - x| has the root of zero at the bottom, as distances to a stored image have at that image."""
    said = failure(Of(lambda images, mean: mean + (mean - mean.detach()).square().sqrt()))
    assert "not finite for 16 of 16" in said


def test_a_score_that_is_flat_where_images_are_anomalous():
    said = failure(Of(lambda images, mean: mean.clamp(max=0.2) + 0.0 * mean.round()))
    assert "the gradient is zero for 8 of 8 anomalous images" in said


def test_a_score_that_is_flat_for_normal_images_conforms():
    check_conformance(
        ExternalNetwork(external(), Of(lambda images, mean: (mean - 0.18).clamp(min=0))), NORMALS, ANOMALIES
    )


def test_dropout_left_on():
    said = failure(Of(lambda images, mean: nn.functional.dropout(images, 0.1, training=True).mean(dim=(1, 2, 3))))
    assert "another score the second time" in said and "model.eval()" in said


def test_a_batch_norm_in_training_mode():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def normalised(images, mean):
        features = nn.functional.conv2d(images, weight).relu()
        return nn.functional.batch_norm(features, None, None, training=True)[:, :, 2:6].square().mean(dim=(1, 2, 3))

    said = failure(Of(normalised))
    assert "alone than within a batch" in said and "model.eval()" in said


def test_scores_on_another_device():
    class Elsewhere(nn.Module):
        def forward(self, images):
            return images.to("meta").mean(dim=(1, 2, 3))

    assert "gives scores on meta for images on cpu" in failure(Elsewhere())


def test_the_same_failures_of_what_was_exported_in_training_mode():
    """A file's mode is that of its export: train() and eval() change nothing in it."""
    images = torch.rand(4, 3, 16, 16)
    batch = {0: torch.export.Dim.DYNAMIC}
    training = torch.export.export(Convolution().train(), (images,), dynamic_shapes=(batch,)).module()
    assert "alone than within a batch" in failure(training)
    dropout = torch.jit.trace(nn.Sequential(nn.Dropout(0.5), Brightness()).train(), images, check_trace=False)
    assert "another score the second time" in failure(dropout)
    fixed = torch.export.export(Brightness(), (images,)).module()
    assert "16 images of 3x16x16" in failure(fixed) and "dynamic batch" in failure(fixed)


def test_errors_name_their_kind():
    with pytest.raises(DataError):
        check_conformance(ExternalNetwork(external(), Of(lambda images, mean: 0 * mean)), NORMALS, ANOMALIES)
