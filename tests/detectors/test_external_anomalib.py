"""The anomalib adapter: on models of the same interface and, where the library is installed, on its own."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from cfexplain.data.batches import to_float
from cfexplain.detectors.external.calibration import calibrate_external
from cfexplain.detectors.external.spec import Kind
from cfexplain.encoders.conv import Conv
from cfexplain.errors import ConfigError, DataError
from tests.detectors.external_specs import bar_splits, external, held

CPU = torch.device("cpu")


class InferenceBatch(NamedTuple):
    """The fields of anomalib.data.InferenceBatch (2.7)."""

    pred_score: torch.Tensor | None = None
    pred_label: torch.Tensor | None = None
    anomaly_map: torch.Tensor | None = None
    pred_mask: torch.Tensor | None = None


class TorchModel(nn.Module):
    """As those of anomalib: features without gradients, a map of distances, its maximum as the score."""

    def __init__(self, has_score: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 8, 3)
        self.has_score = has_score

    @torch.no_grad()
    def embed(self, images):
        return self.features(images)

    def forward(self, images):
        anomaly_map = self.embed(images).square().mean(dim=1, keepdim=True)
        score = anomaly_map.amax(dim=(2, 3)) if self.has_score else None  # (N, 1), as Padim's
        return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)


class Normalize(nn.Module):
    def forward(self, images):
        return (images - 0.5) / 0.25


class Clamped(nn.Module):
    def forward(self, predictions):
        return predictions._replace(pred_score=predictions.pred_score.clamp(0, 0.001))


class LightningModel(nn.Module):
    """As AnomalibModule: pre-processor, torch model, post-processor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pre_processor, self.model, self.post_processor = Normalize(), model, Clamped()

    def forward(self, images):
        return self.post_processor(self.model(self.pre_processor(images)))


def adopted(model: nn.Module, **values):
    held.append(model)
    return calibrate_external(external(kind=Kind.anomalib, **values), Conv(width=4), bar_splits(), 0, CPU)[0]


def test_without_the_adapter_no_gradient_comes_back():
    held.append(TorchModel())
    with pytest.raises(DataError, match="no gradient comes back"):
        calibrate_external(external(output="pred_score"), Conv(width=4), bar_splits(), 0, CPU)


@pytest.mark.parametrize("has_score", [True, False])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_model_of_the_interface_is_adopted(has_score, is_whole):
    model = TorchModel(has_score)
    detector = adopted(LightningModel(model) if is_whole else model)
    images = to_float(bar_splits().test.images[:5]).requires_grad_(True)
    prepared = (images + 1) / 2
    expected = model(Normalize()(prepared) if is_whole else prepared).anomaly_map.amax(dim=(1, 2, 3))
    scores = detector.embed(images)
    torch.testing.assert_close(scores[:, 0], expected)
    scores.sum().backward()
    plain = ((images.detach() + 1) / 2).requires_grad_(True)  # the same operations without the switch
    features = model.features(Normalize()(plain) if is_whole else plain)
    features.square().mean(dim=1).flatten(1).amax(dim=1).sum().backward()
    torch.testing.assert_close(images.grad, plain.grad / 2)


def test_where_no_gradient_is_wanted_there_is_none():
    detector = adopted(TorchModel())
    with torch.no_grad():
        assert not detector.embed(torch.rand(2, 3, 16, 16)).requires_grad
    assert detector.embed(torch.rand(2, 3, 16, 16).requires_grad_(True)).requires_grad


def test_another_model_is_no_anomalib_model():
    with pytest.raises(ConfigError, match="gives no pred_score and no anomaly_map"):
        adopted(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Padim", "Patchcore"])
def test_models_of_the_library(name):
    """With random weights: nothing is downloaded."""
    models = pytest.importorskip("anomalib.models", reason="pip install 'cfexplain[anomalib]'")
    cls = getattr(models, name)
    model = cls(backbone="resnet18", pre_trained=False, pre_processor=cls.configure_pre_processor((64, 64)))
    inner, images = model.model.train(), (to_float(bar_splits().train.images) + 1) / 2
    with torch.no_grad():
        inner(model.pre_processor(images))
    inner.fit() if hasattr(inner, "fit") else inner.subsample_embedding(0.1)
    model.eval()
    detector = adopted(model)
    test = to_float(bar_splits().test.images[:3])
    with torch.no_grad():
        expected = model.model(model.pre_processor((test + 1) / 2)).pred_score.flatten()
        torch.testing.assert_close(detector.embed(test)[:, 0], expected)
