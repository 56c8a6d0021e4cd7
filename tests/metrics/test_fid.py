"""Frechet distance against its closed form and a numpy reference; what is compared with what."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from cfexplain.errors import CfexplainWarning, DataError
from cfexplain.metrics.fid import FeatureNetwork, Fid, frechet_distance, kernel_distance, one_per_source


def spec(**changes):
    small = {"num_features": 8, "width": 4, "num_steps": 30}
    return Fid(**{"features": FeatureNetwork.CLASSIFIER, "weights_path": None} | small | changes)


def gaussian(seed, num, dim):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_closed_form_of_linear_features():
    # Features W x of Gaussian x: covariance W W^T. The same samples moved by d are at distance |W d|^2 exactly.
    samples, shift = gaussian(0, 500, 6), torch.tensor([1.0, 0, 0, -2.0, 0, 0.5], dtype=torch.float64)
    linear = gaussian(1, 6, 4)
    expected = (shift @ linear).square().sum().item()
    assert frechet_distance(samples @ linear, (samples + shift) @ linear) == pytest.approx(expected, rel=1e-5)


def test_closed_form_of_scaled_gaussians():
    # Covariances S and 4 S, equal means 0: trace(S + 4 S - 2 * 2 S) = trace(S)
    samples = gaussian(0, 800, 5)
    samples = samples - samples.mean(dim=0)
    expected = samples.T.cov().trace().item()
    assert frechet_distance(samples, 2 * samples) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_equals_numpy_reference(seed):
    first, second = gaussian(seed, 300, 7), gaussian(seed + 10, 200, 7) @ gaussian(seed + 20, 7, 7) + 0.3
    a, b = first.numpy(), second.numpy()
    values, vectors = np.linalg.eigh(np.cov(a.T))
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ np.cov(b.T) @ root).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.cov(a.T).trace() + np.cov(b.T).trace() - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)
    assert 0 <= frechet_distance(first, first) < 1e-4


def test_kernel_distance_by_hand_and_without_bias():
    # Kernel (x y / d + 1)^3 with d = 1 on {0, 1} and {0, 2}: within 1 and 1, across (1 + 1 + 1 + 27) / 4
    first, second = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0], [2.0]]).double()
    assert kernel_distance(first, second) == pytest.approx(1 + 1 - 2 * 30 / 4)
    draws = [kernel_distance(gaussian(seed, 50, 3), gaussian(seed + 1000, 50, 3)) for seed in range(100)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 10  # same distribution: mean 0, four standard errors


def test_kernel_distance_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    kernel_distance(gaussian(0, 10, 2), gaussian(1, 10, 2))
    assert torch.rand(1) == expected


def test_concepts_take_turns(planted):
    sources = torch.tensor([5, 2, 9])
    counterfactuals = planted.explanations.counterfactuals
    expected = torch.stack([counterfactuals[5, 0], counterfactuals[2, 1], counterfactuals[9, 0]])
    assert torch.equal(one_per_source(planted.explanations, sources), expected)


def test_planted_run(planted):
    with pytest.warns(CfexplainWarning, match="200 images a side, fewer than 2048"):
        values = spec().compute(planted)
    assert set(values) == {
        "fid_normalized", "fid_counterfactual", "fid_anomaly", "fid_features", "fid_images", "kid_counterfactual",
        "kid_anomaly",
    }  # fmt: skip
    assert values["fid_normalized"] == pytest.approx(values["fid_counterfactual"] / values["fid_anomaly"])
    assert values["fid_images"] == 200
    assert values["kid_counterfactual"] < values["kid_anomaly"]
    assert values["fid_features"].startswith("classifier-")
    assert list((planted.cache_dir / "judges").glob("*.pt"))


def test_counterfactuals_that_change_nothing_are_as_far_as_the_anomalies(planted):
    explanations = planted.explanations
    unchanged = explanations.sources.images[:, None, None].expand_as(explanations.images)
    with pytest.warns(CfexplainWarning):
        values = spec().compute(replace(planted, explanations=replace(explanations, images=unchanged)))
    assert values["fid_normalized"] == pytest.approx(1.0, abs=1e-6)


def one_class(planted):
    """A run whose training images are all of one class, as in own folders."""
    reference = planted.splits.reference
    same = replace(reference, classes=torch.zeros_like(reference.classes))
    return replace(planted, splits=replace(planted.splits, reference=same))


def test_one_class_leaves_the_network_random(planted, tmp_path):
    inputs = replace(one_class(planted), cache_dir=tmp_path)
    with pytest.warns(CfexplainWarning, match="random network"):
        values = spec().compute(inputs)
    assert values["fid_features"] == "random"
    assert values == spec().compute(inputs)  # drawn from a seed of its own
    assert values["kid_counterfactual"] < values["kid_anomaly"]  # random features see the difference too
    assert not list(tmp_path.rglob("*.pt"))


def test_without_test_anomalies_there_is_no_distance_to_divide_by(only_normals):
    with pytest.warns(CfexplainWarning, match="no test anomalies"):
        values = spec().compute(only_normals)
    assert set(values) == {"fid_counterfactual", "fid_features", "fid_images", "kid_counterfactual"}


def test_one_line_for_missing_or_damaged_inception_weights(planted, tmp_path):
    with pytest.raises(DataError, match="no Inception weights at .*features=classifier"):
        spec(features=FeatureNetwork.INCEPTION, weights_path=str(tmp_path / "no.pth")).compute(planted)
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(b"not weights")
    with pytest.raises(DataError, match="no file of weights"):
        spec(features=FeatureNetwork.INCEPTION, weights_path=str(garbage)).compute(planted)


def test_weights_that_run_code_are_refused(planted, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    trap = tmp_path / "trap.pth"
    trap.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="no file of weights"):
        spec(features=FeatureNetwork.INCEPTION, weights_path=str(trap)).compute(planted)
    assert not (tmp_path / "sprung").exists()


def test_inception_without_its_package_names_the_way_out(planted):
    pytest.importorskip("torchmetrics")
    try:
        import torch_fidelity  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(DataError, match="pip install torch-fidelity.*features=classifier"):
            spec(features=FeatureNetwork.INCEPTION).compute(planted)
    else:
        pytest.skip("torch-fidelity is installed")
