"""The counterfactual game: each step moves only its own network, it resumes, and it learns a planted signal."""

import copy
import dataclasses

import pytest
import torch

from cfexplain.detectors.bce import Bce
from cfexplain.detectors.fitting import fit_detector
from cfexplain.detectors.base import logits_of
from cfexplain.encoders.conv import Conv as ConvEncoderSpec
from cfexplain.explanation import game as fitting
from cfexplain.explanation.explain import explain_images
from cfexplain.explanation.game import CounterfactualLearner, fit_generator
from cfexplain.metrics.auroc import auroc
from cfexplain.types import ImageSet, Splits
from tests.specs import small_fit, small_generator

CPU = torch.device("cpu")
DETECTOR = Bce(embedding_dim=8, steps=60, batch_size=32, learning_rate=3e-3, weight_decay=0.0)
ENCODER = ConvEncoderSpec(width=4)
GENERATOR = small_generator(exact_skip=False)
FIT = small_fit(
    steps=10, batch_size=8, learning_rate=1e-3, discriminator_learning_rate=1e-3, adversarial=1.0, score_noise=0.05,
    concept=1.0, pull=1.0, diversity=1.0,
)
NETWORKS = ("generator", "discriminator", "concept_classifier", "detector")


def planted(kind: str, n: int, label: int, seed: int) -> ImageSet:
    """Dark noise; an anomaly has a bright square in the middle."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 40, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
    if label:
        images[:, :, 5:11, 5:11] += 180
    labels = torch.full((n,), label)
    return ImageSet(images=images, labels=labels, classes=labels, ids=tuple(f"{kind}/{i}" for i in range(n)))


@pytest.fixture(scope="module")
def splits() -> Splits:
    normals, anomalies = planted("test", 60, 0, 3), planted("anomaly", 60, 1, 4)
    test = ImageSet(
        images=torch.cat([normals.images, anomalies.images]), labels=torch.cat([normals.labels, anomalies.labels]),
        classes=torch.cat([normals.classes, anomalies.classes]), ids=normals.ids + anomalies.ids,
    )
    train = planted("train", 200, 0, 0)
    return Splits(
        train=train, held_out=planted("held", 60, 0, 1), exposure=planted("exposure", 200, 1, 2), test=test,
        reference=train, class_names=("dark", "square"), factors=None,
    )


@pytest.fixture(scope="module")
def detector(splits):
    return fit_detector(DETECTOR, ENCODER, splits, 0, CPU, lambda tick: None)


def learner_of(splits, detector, fit=FIT, seed=0) -> CounterfactualLearner:
    return CounterfactualLearner(GENERATOR, fit, detector, splits, seed, CPU)


def weights(network) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_update_moves_one_network_and_never_the_detector(splits, detector, monkeypatch):
    learner = learner_of(splits, detector)
    moved: list[set[str]] = []
    real_update = fitting._update

    def watched(optimizer, loss):
        before = {name: weights(getattr(learner, name)) for name in NETWORKS}
        real_update(optimizer, loss)
        moved.append({name for name in NETWORKS if not same(before[name], weights(getattr(learner, name)))})

    monkeypatch.setattr(fitting, "_update", watched)
    learner.step()
    assert moved == [{"discriminator"}, {"concept_classifier"}, {"generator"}]


def test_the_detector_stays_the_same_over_a_training(splits, detector):
    before = weights(detector)
    fit_generator(learner_of(splits, detector), lambda tick: None)
    assert same(before, weights(detector)) and not any(part.requires_grad for part in detector.parameters())


def test_a_resumed_training_ends_with_the_same_bits(splits, detector):
    whole = learner_of(splits, detector)
    fit_generator(whole, lambda tick: None)
    first = learner_of(splits, detector, dataclasses.replace(FIT, steps=4))
    fit_generator(first, lambda tick: None)
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(1234)  # other global randomness must not matter
    second = learner_of(splits, detector)
    second.load_state_dict(state)
    fit_generator(second, lambda tick: None)
    for name in ("generator", "average", "discriminator", "concept_classifier"):
        assert same(weights(getattr(whole, name)), weights(getattr(second, name))), name


def test_another_seed_gives_another_generator(splits, detector):
    one, other = learner_of(splits, detector), learner_of(splits, detector, seed=1)
    one.step(), other.step()
    assert not same(weights(one.generator), weights(other.generator))


def test_a_weight_of_zero_leaves_its_loss_out(splits, detector):
    off = dict(matching=0.0, pull=0.0, diversity=0.0, overlap=0.0)
    assert set(off) <= set(learner_of(splits, detector).step())
    names = set(learner_of(splits, detector, dataclasses.replace(FIT, **off)).step())
    assert names.isdisjoint(off) and {"adversarial", "score", "reconstruction", "concept"} <= names


@pytest.mark.parametrize(("num_concepts", "num_alpha_bins"), [(1, 2), (3, 4)])
def test_any_number_of_concepts_and_bins(splits, detector, num_concepts, num_alpha_bins):
    fit = dataclasses.replace(FIT, num_concepts=num_concepts, num_alpha_bins=num_alpha_bins, steps=2)
    model = fit_generator(learner_of(splits, detector, fit), lambda tick: None)
    explanations = explain_images(model, splits.test_anomalies, CPU)
    assert explanations.images.shape == (60, num_alpha_bins, num_concepts, 1, 16, 16)
    sample = learner_of(splits, detector, fit).sample(0)
    assert (sample.target_bins[::2] == sample.source_bins[::2]).all()
    assert (sample.target_bins[1::2] != sample.source_bins[1::2]).all()


def test_scores_are_those_of_the_saved_images(splits, detector):
    model = fit_generator(learner_of(splits, detector, dataclasses.replace(FIT, steps=2)), lambda tick: None)
    explanations = explain_images(model, splits.test_anomalies, CPU, batch_size=7)
    again = logits_of(detector, explanations.images[:, 0, 1], CPU)
    torch.testing.assert_close(explanations.logits[:, 0, 1], again)


@pytest.mark.slow
def test_it_learns_to_remove_a_planted_anomaly(splits, detector):
    normal = logits_of(detector, splits.test_normals.images).numpy()
    assert auroc(normal, logits_of(detector, splits.test_anomalies.images).numpy()) > 0.95
    fit = dataclasses.replace(FIT, steps=250, batch_size=16, num_concepts=1)
    model = fit_generator(learner_of(splits, detector, fit), lambda tick: None)
    explanations = explain_images(model, splits.test_anomalies, CPU)
    assert (explanations.source_logits > 3).all() and (explanations.logits[:, 0, 0] < -3).float().mean() > 0.9
    # The square is truly gone, not only unseen by the detector: 180 grey levels brighter before.
    edited = explanations.counterfactuals[:, 0, 0].float()
    ring = edited[:, 1:4].mean()
    assert (edited[:, 6:10, 6:10].mean() - ring).abs() < 60
