"""Baselines: what each of them is, and that they are measured by the very metrics that measure the run."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cfexplain.config import build
from cfexplain.data.batches import to_float
from cfexplain.detectors.base import LogProbs
from cfexplain.detectors.base import logits_of
from cfexplain.errors import CfexplainWarning, ConfigError
from cfexplain.metrics.auroc import Auroc
from cfexplain.metrics.base import MetricSpec
from cfexplain.metrics.baseline_methods import (
    GradientRecipe, Norm, descended, nearest_indices, projected,
    train_autoencoder,
)
from cfexplain.metrics.baselines import COMPARED, METHODS, Baselines
from cfexplain.metrics.classifiers import NetworkRecipe
from cfexplain.metrics.distance import Distance, l1_distances, level_changes
from cfexplain.metrics.survival import Survival
from cfexplain.metrics.transfer import Transfer
from cfexplain.metrics.validity import Validity
from tests.specs import metric_values

BASELINES = Baselines(
    num_images=40, gradient_norm=Norm.linf, gradient_radius=0.5, gradient_step_size=0.02, gradient_steps=50,
    autoencoder_width=4, autoencoder_features=8, autoencoder_steps=10,
)
METRICS = {
    "validity": Validity(num_resamples=20),
    "distance": Distance(change_threshold=0.1),
    "survival": Survival(num_resamples=20, jpeg_quality=75, shift_pixels=1, blur_sigma=0.5),
    "transfer": Transfer(num_resamples=20),
}
STEPS = GradientRecipe(norm=Norm.linf, radius=0.5, step_size=0.02, num_steps=50)


def mean_distance(sources, counterfactuals):
    return l1_distances(level_changes(sources[:, None], counterfactuals)).mean()


class Brightness(nn.Module):
    """A detector whose logit is a linear function of the image, so that every step is known beforehand."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def log_probs(self, images):
        logits = (images * self.weights).flatten(1).sum(dim=1)
        return LogProbs(nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits))


def test_nearest_is_the_nearest_of_a_brute_force_search(planted):
    images, normals = planted.explanations.sources.images[:40], planted.splits.train.images
    found = nearest_indices(images, normals, "cpu")
    distances = (images[:, None].long() - normals[None].long()).square().flatten(2).sum(dim=2)  # (40, T), exact
    assert torch.equal(distances.gather(1, found[:, None])[:, 0], distances.amin(dim=1))


def test_nearest_looks_at_every_chunk(planted, monkeypatch):
    normals = planted.splits.train.images
    monkeypatch.setattr("cfexplain.metrics.baseline_methods.CHUNK_VALUES", 7 * normals[0].numel() + 1)
    assert torch.equal(normals[nearest_indices(normals, normals, "cpu")], normals)  # each is nearest to itself


def test_gradient_goes_straight_down_and_stops_at_the_threshold():
    # The logit is the first pixel minus the second. A step of 0.08 is 10.2 levels.
    detector = Brightness(torch.tensor([[[1.0, -1.0, 0.0]]]))
    images = torch.full((1, 1, 1, 3), 128, dtype=torch.uint8)
    recipe = GradientRecipe(norm=Norm.linf, radius=0.5, step_size=0.08, num_steps=50)
    found = descended(detector, images, -0.2, recipe, "cpu")
    # After one step 20 levels lie between them, a logit of -0.157; after two 40, a logit of -0.314.
    assert found.flatten().tolist() == [108, 148, 128]


SIZES = {Norm.linf: lambda change: change.abs().amax(), Norm.l2: lambda change: change.square().mean().sqrt()}


@pytest.mark.parametrize("norm", list(Norm))
def test_gradient_never_leaves_the_ball(norm):
    weights = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0))
    images = torch.full((1, 1, 6, 6), 128, dtype=torch.uint8)
    recipe = GradientRecipe(norm=norm, radius=0.3, step_size=0.07, num_steps=40)
    change = to_float(descended(Brightness(weights), images, -1e9, recipe, "cpu")) - to_float(images)
    assert SIZES[norm](change).item() == pytest.approx(0.3, abs=1.01 / 127.5)  # on its surface, but for the rounding


def test_gradient_leaves_what_is_normal_and_the_detector_alone(planted):
    detector, normals = planted.model.detector, planted.splits.test_normals.images[:50]
    threshold = float(detector.threshold)
    below = logits_of(detector, normals) <= threshold
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    found = descended(detector, normals, threshold, STEPS, "cpu")
    assert below.sum() > 40 and torch.equal(found[below], normals[below])
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_gradient_convinces_the_detector_with_little(planted):
    sources, threshold = planted.explanations.sources.images, planted.explanations.threshold
    found = descended(planted.model.detector, sources, threshold, STEPS, "cpu")
    assert (logits_of(planted.model.detector, found) <= threshold).float().mean() > 0.95
    changes = mean_distance(sources, found[:, None])
    assert 0 < changes < 0.5 * mean_distance(sources, planted.explanations.counterfactuals)


def test_autoencoder_copies_what_it_knows_and_drops_what_it_does_not():
    """Normal: a bright half, of any brightness. Anomalous: the same with a dark spot in it."""
    rng = torch.Generator().manual_seed(0)
    normals = torch.zeros(200, 1, 16, 16, dtype=torch.uint8)
    normals[..., 8:] = torch.randint(100, 255, (200, 1, 1, 1), generator=rng, dtype=torch.uint8)
    anomalies = normals[:50].clone()
    anomalies[..., 6:10, 10:14] = 0
    recipe = NetworkRecipe(width=4, num_features=4, num_steps=150)
    autoencoder = train_autoencoder(normals[50:], recipe, "cpu")
    copies, repaired = projected(autoencoder, normals[:50], "cpu"), projected(autoencoder, anomalies, "cpu")
    assert (copies.int() - normals[:50].int()).abs().float().mean() < 15
    spot = (..., slice(6, 10), slice(10, 14))
    lit = normals[:50][spot].float().mean()
    assert (repaired[spot].float().mean() - lit).abs() < 0.4 * lit


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 50)])
def test_autoencoder_gives_back_the_size(shape):
    images = torch.zeros(4, *shape, dtype=torch.uint8)
    autoencoder = train_autoencoder(images, NetworkRecipe(width=2, num_features=4, num_steps=2), "cpu")
    assert projected(autoencoder, images, "cpu").shape == images.shape


def test_autoencoder_is_kept(planted, tmp_path):
    images, recipe = planted.splits.train.images, NetworkRecipe(width=4, num_features=8, num_steps=3)
    first = train_autoencoder(images, recipe, "cpu", tmp_path)
    (file,) = (tmp_path / "judges").glob("autoencoder-*.pt")
    state = torch.load(file, weights_only=True)
    state["encoder.head.bias"] += 1
    torch.save(state, file)
    again = train_autoencoder(images, recipe, "cpu", tmp_path)
    torch.testing.assert_close(again.encoder.head.bias, first.encoder.head.bias + 1)  # read, not trained again


@pytest.fixture(scope="module")
def compared(planted):
    other = planted.fit_detector(planted.splits, planted.seed + 1000)
    inputs = replace(planted, metrics={**METRICS, "auroc": Auroc(num_resamples=20)}, fit_detector=lambda *_: other)
    with pytest.warns(CfexplainWarning):
        return BASELINES.compute(inputs)


@pytest.mark.parametrize("name", COMPARED)
def test_compared_keys_are_those_of_their_metric(name):
    assert set(COMPARED[name]) <= set(build(metric_values(name)[name], MetricSpec, name).meanings)


def test_own_row_is_the_metric_itself(planted, compared):
    inputs = replace(planted, metrics={"validity": METRICS["validity"]})
    everything = replace(BASELINES, num_images=10_000).compute(inputs)
    own = METRICS["validity"].compute(planted)
    for key in ("validity", "validity_low", "validity_high"):
        assert everything[f"baseline_cfexplain_{key}"] == own[key]
    assert everything["baseline_images"] == len(planted.explanations.sources)
    assert compared["baseline_images"] == 40


def test_a_method_is_measured_as_the_run_is(planted, compared):
    """Of the nearest image by hand: the same numbers as the metrics give on explanations made of it."""
    few = replace(BASELINES, num_images=40)
    again = few.compute(replace(planted, metrics={"distance": METRICS["distance"]}))
    drawn = torch.randperm(len(planted.explanations.sources), generator=torch.Generator().manual_seed(0))[:40]
    sources = planted.explanations.sources.images[drawn]
    nearest = planted.splits.train.images[nearest_indices(sources, planted.splits.train.images, "cpu")]
    assert again["baseline_nearest_l1_distance"] == pytest.approx(mean_distance(sources, nearest[:, None]))
    valid = logits_of(planted.model.detector, nearest) <= planted.explanations.threshold
    assert compared["baseline_nearest_validity"] == pytest.approx(valid.double().mean().item())
    drawn = drawn.sort().values
    valid = planted.explanations.logits[drawn, 0] <= planted.explanations.threshold
    assert compared["baseline_cfexplain_validity"] == pytest.approx(valid.double().mean().item())
    own, sources = planted.explanations.counterfactuals[drawn], planted.explanations.sources.images[drawn]
    assert again["baseline_cfexplain_l1_distance"] == pytest.approx(mean_distance(sources, own))


def test_every_method_has_every_key(compared):
    keys = ("validity", "validity_low", "l1_distance", "changed_fraction", "transfer_auroc", "transfer_validity",
            "cf_auroc", "cf_auroc_high")
    assert {f"baseline_{method}_{key}" for method in METHODS for key in keys} <= set(compared)
    assert not [key for key in compared if "concept" in key or "detector_auroc" in key]


def test_nearest_is_real_and_gradient_is_adversarial(compared):
    assert compared["baseline_nearest_validity"] > 0.9 and compared["baseline_nearest_transfer_validity"] > 0.8
    assert compared["baseline_gradient_validity"] > 0.95
    assert compared["baseline_gradient_survival"] < compared["baseline_nearest_survival"] - 0.2
    assert compared["baseline_gradient_l1_distance"] < compared["baseline_cfexplain_l1_distance"] / 2


def test_a_note_names_the_methods_it_is_about(planted):
    """No room to move, no valid gradient counterfactual: its survival is left out, and that is said of it."""
    inputs = replace(planted, metrics={"survival": METRICS["survival"]})
    with pytest.warns(CfexplainWarning) as caught:
        values = replace(BASELINES, gradient_radius=1e-9).compute(inputs)
    assert "baseline_gradient_survival" not in values and "baseline_nearest_survival" in values
    # ten steps of training make no autoencoder either
    assert [str(warning.message) for warning in caught] == [
        "baselines, gradient and autoencoder: survival left out: no counterfactual is valid"
    ]


def test_without_a_metric_beside_it_there_is_nothing_to_compare(planted):
    with pytest.raises(ConfigError, match="add one of auroc, validity"):
        BASELINES.compute(replace(planted, metrics={"baselines": BASELINES}))


def test_without_test_anomalies_exposure_takes_their_place(only_normals):
    metrics = {**METRICS, "auroc": Auroc(num_resamples=20)}
    del metrics["transfer"]
    with pytest.warns(CfexplainWarning):
        values = BASELINES.compute(replace(only_normals, metrics=metrics))
    assert values["baseline_nearest_validity"] > 0.5 and 0 <= values["baseline_gradient_cf_auroc"] <= 1


def test_the_second_detector_is_asked_of_one_place(planted):
    """Each method asks for the very detector that transfer asks for; evaluate fits it once."""
    asked = []

    def fit(splits, seed):
        asked.append((splits is planted.splits, seed))
        return planted.model.detector

    BASELINES.compute(replace(planted, metrics={"transfer": METRICS["transfer"]}, fit_detector=fit))
    assert set(asked) == {(True, planted.seed + 1000)}
