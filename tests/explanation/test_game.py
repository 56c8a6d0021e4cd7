"""The counterfactual game: a step by hand, what moves and what does not, resuming, and a planted signal learnt."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cfexplain.data.batches import to_uint8
from cfexplain.detectors.base import LogProbs, logits_of
from cfexplain.detectors.bce import Bce
from cfexplain.detectors.fitting import DetectorLearner, fit_detector
from cfexplain.encoders.conv import Conv as ConvEncoderSpec
from cfexplain.engine.distributed import Ranks
from cfexplain.engine.loop import train
from cfexplain.engine.seeding import step_generator
from cfexplain.errors import ConfigError
from cfexplain.explanation import game
from cfexplain.explanation.explain import explain_images
from cfexplain.explanation.game import Batch, CounterfactualLearner, Networks
from cfexplain.explanation.normal_levels import NormalLevels, largest_bearable_noise, normal_levels
from cfexplain.explanation.objective import ConceptView, noisy
from cfexplain.generators.base import Region
from cfexplain.metrics.auroc import auroc
from cfexplain.types import Augmentation, ImageSet, Splits
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


def fit_generator(learner, report):
    train(learner, learner.training.steps, learner.training.log_every_steps, report)
    return learner.fitted()


def weights(network) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Line(nn.Module):
    """A network of one line; its weight of 0 is there for an optimiser to hold."""

    def __init__(self, line) -> None:
        super().__init__()
        self.line, self.zero = line, nn.Parameter(torch.zeros(()))

    def forward(self, *inputs):
        return self.line(*inputs) + self.zero


class LineDetector(Line):
    threshold = torch.tensor(0.0)

    def log_probs(self, images) -> LogProbs:
        level = means(images)
        return LogProbs(level - 1, -level)  # so the score loss is alpha (1 - level) + (1 - alpha) level

    def feature_maps(self, images):
        return [torch.cat([images, torch.ones_like(images)], dim=1)]


def means(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))


def flat(*levels: float) -> torch.Tensor:
    """(N, 1, 2, 2) images of one level each."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def flat_batch() -> Batch:
    """Two normals, two outliers (.8 and .6); the first of each keeps its bin; then the outliers under both concepts."""
    return Batch(
        images=flat(0.0, 0.2, 0.8, 0.6),
        source_bins=torch.tensor([0, 0, 1, 1]),
        indices=torch.tensor([0, 2, 1, 2, 2, 3, 3]),
        target_bins=torch.tensor([0, 1, 1, 0, 0, 0, 0]),
        concepts=torch.tensor([0, 0, 1, 0, 1, 0, 1]),
        num_kept=2,
        returning=torch.tensor([2, 6]),
        compared=torch.tensor([[3, 4], [5, 6]]),
    )


# G(x, a, k) = x / 2 + k / 10 + a / 5. Its edits have the levels 0, .6, .4 and .4, .5, .3, .4; the ways back of the
# pairs 2 and 6, G(.4, 0, 1) and G(.4, 1, 1), the levels .3 and .5.
def flat_networks() -> Networks:
    def column(values):
        return values.view(-1, 1, 1, 1)

    return Networks(
        generator=Line(lambda images, bins, concepts: images / 2 + column(concepts) / 10 + column(bins) / 5),
        discriminator=Line(lambda images, bins: means(images) - bins),
        concept_classifier=Line(lambda source, edited, noise: torch.stack(
            [torch.zeros(len(source)), 1 + means(edited) - means(source)], dim=1
        )),
        detector=LineDetector(None),
    )


def flat_learner(splits, detector, monkeypatch, score_stop=None, **values) -> CounterfactualLearner:
    training = dataclasses.replace(FIT, batch_size=4, score_noise=0.0, diversity_margin=0.3, **values)
    learner = learner_of(splits, detector, training)
    learner.networks, learner.sample = flat_networks(), lambda step: flat_batch()
    learner.levels = NormalLevels(noise=0.0, stop=score_stop, quantiles=torch.tensor([-0.8, -0.4]))
    for name in NETWORKS:
        setattr(learner, name, getattr(learner.networks, name))
    for name, network in (("generator", "generator"), ("discriminator", "discriminator"),
                          ("concept", "concept_classifier")):
        weights = getattr(learner, network).parameters()
        setattr(learner, f"{name}_optimizer", torch.optim.SGD(weights, lr=0.0))
    monkeypatch.setattr(learner, "_update_average", lambda: None)
    return learner


def cross_entropy(*signed_differences: float) -> float:
    """Of logits (0, d): log(1 + exp(-d)) where concept 1 was asked for; where concept 0 was, d is given as -d."""
    return sum(math.log(1 + math.exp(-value)) for value in signed_differences) / len(signed_differences)


def test_every_term_of_a_step_by_hand(splits, detector, monkeypatch):
    found = flat_learner(splits, detector, monkeypatch).step()
    # R's logits (0, 1 + change of level), of the pairs 2 to 6; of concept 0, pairs 3 and 5, with the sign turned. Pair
    # 2 rises from .2 to .4 and is shown as .4 to .2.
    of_edits = (0.8, -0.6, 0.7, -0.7, 0.8)
    wanted = {
        # D: real logits 0, .2, -.2, -.4; edited ones 0, -.4, -.6, .4, .5, .3, .4
        "discriminator": (1 + 0.8 + 1.2 + 1.4) / 4 + (1 + 0.6 + 0.4 + 1.4 + 1.5 + 1.3 + 1.4) / 7,
        "concept_classifier": cross_entropy(*of_edits),
        "concept_accuracy": 3 / 5,
        "adversarial": -(0 - 0.4 - 0.6 + 0.4 + 0.5 + 0.3 + 0.4) / 7,
        # level where alpha is 0, 1 - level where it is 1, of the seven edits and the two ways back
        "score": (0 + 0.4 + 0.6 + 0.4 + 0.5 + 0.3 + 0.4 + 0.3 + 0.5) / 9,
        "reconstruction": (0 + 0.2) / 2 + (0.1 + 0.1) / 2,
        # the ways back: .4 to .3, which falls, and .4 to .5, which rises and is shown as .5 to .4
        "concept": cross_entropy(*of_edits, 0.9, 0.9),
        # logits 2 level - 1: (-.4, -.2), (-.2, 0) against (-.8, -.4), whose quartiles are .4 apart
        "matching": ((0.4 + 0.2) / 2 + (0.6 + 0.4) / 2) / 2 / (0.4 / 1.349),
        "pull": (0.4 + 0.3 + 0.3 + 0.2) / 4,
        "diversity": 0.3 - 0.1,
        # edits of four equal pixels: lengths .8 and .6, then .6 and .4, each with 0.01 added where divided by
        "overlap": ((0.48 / (0.81 * 0.61)) ** 2 + (0.24 / (0.61 * 0.41)) ** 2) / 2,
    }
    terms = ({*wanted} & {field.name for field in dataclasses.fields(FIT)}) - {"concept_classifier"}
    total = sum(getattr(FIT, name) * wanted[name] for name in terms)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted | {"generator": total})


def test_a_repair_is_held_against_what_the_pseudo_anomaly_was_made_of(splits, detector, monkeypatch):
    learner = flat_learner(splits, detector, monkeypatch, repair=2.0, repair_whole=0.5, repair_drawn=2.0, region=1.0)
    masks = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    learner.sample = lambda step: dataclasses.replace(flat_batch(), origins=flat(0.1, 0.2), masks=masks)
    # the edits .4, .5 of one and .3, .4 of the other outlier; of the first one pixel was altered, of the second all
    found = learner.step()
    of_masks = (0.3 + 0.4 + 4 * 0.1 + 4 * 0.2) / 10
    assert found["repair"].item() == pytest.approx(of_masks + (0.5 + 2.0) * (0.3 + 0.4 + 0.1 + 0.2) / 4)
    assert "region" not in found  # this generator does not say where it edits


def test_what_a_repair_looks_like_to_the_detector_s_network_is_held_against_its_origin(splits, detector, monkeypatch):
    with pytest.raises(ConfigError, match="fit.perceptual needs a detector on encoder=lite0"):
        flat_learner(splits, detector, monkeypatch, perceptual=1.0)
    monkeypatch.setattr(type(detector), "has_feature_maps", True)
    learner = flat_learner(splits, detector, monkeypatch, perceptual=1.0)
    masks = torch.ones(2, 2, 2, dtype=torch.bool)
    learner.sample = lambda step: dataclasses.replace(flat_batch(), origins=flat(0.1, 0.2), masks=masks)

    def distance(level, other):  # of (level, 1) and (other, 1), each of length 1
        cosine = (level * other + 1) / math.hypot(level, 1) / math.hypot(other, 1)
        return 2 - 2 * cosine

    wanted = (distance(0.4, 0.1) + distance(0.5, 0.1) + distance(0.3, 0.2) + distance(0.4, 0.2)) / 4
    assert learner.step()["perceptual"].item() == pytest.approx(wanted, rel=1e-4)


def test_a_region_is_held_against_where_the_pseudo_anomaly_was_altered(splits, detector, monkeypatch):
    learner = flat_learner(splits, detector, monkeypatch, repair=2.0, repair_whole=0.0, repair_drawn=0.0, region=1.0)
    masks = torch.tensor([[[True, False], [False, False]], [[False, False], [False, False]]])
    learner.sample = lambda step: dataclasses.replace(flat_batch(), origins=flat(0.1, 0.2), masks=masks)
    generator = learner.networks.generator

    tracked = []

    class Everywhere(nn.Module):
        track = staticmethod(tracked.append)

        def with_region(self, *inputs):
            found = generator(*inputs)
            return found, Region(drawn=found + 0.5, logits=torch.full((len(found), 1, 2, 2), 40.0))

    monkeypatch.setattr(learner, "generator", Everywhere())
    found = learner.step()
    assert found["repair"].item() == pytest.approx((0.3 + 0.4) / 2 + 0.5)  # what is drawn, in the one altered pixel
    assert len(tracked) == 1 and tracked[0].shape == (1, 1, 2, 2)  # of the one normal image that keeps its bin
    focal, dice = 10 * 40, (1 - 3 / 6, 1 - 1 / 5)  # of the first and of the second outlier, each twice
    assert found["region"].item() == pytest.approx((0.75 * focal + dice[0] + focal + dice[1]) / 2, rel=1e-4)


def test_fresh_pseudo_anomalies_come_with_their_origin_and_the_bins_the_detector_gives_them(splits, detector):
    def squared(images, generator):
        altered = images.clone()
        altered[:, :, 5:11, 5:11] += 180
        return altered, (altered != images).any(dim=1)

    learner = learner_of(dataclasses.replace(splits, fresh=squared), detector)
    batch = learner.sample(0)
    outliers = batch.images[4:]
    assert torch.equal((outliers != batch.origins).any(dim=1), batch.masks) and batch.masks[0, 5:11, 5:11].all()
    bins = (logits_of(detector, to_uint8(batch.images)) > 0).long()
    assert torch.equal(batch.source_bins, bins) and bins.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(batch.compared[:, 0], torch.tensor([6, 8, 10, 12]))
    assert learner.step().keys() >= {"adversarial", "score"} and "repair" not in learner.step()


def test_the_score_loss_stops_at_the_normals_level(splits, detector, monkeypatch):
    found = flat_learner(splits, detector, monkeypatch, score_stop=0.35).step()
    # alpha = 0: 0, .4, .5, .3, .4 and .3 less .35 where they are above it; alpha = 1 as before: .4, .6, .5
    assert found["score"].item() == pytest.approx((0.05 + 0.15 + 0.05 + 0.4 + 0.6 + 0.5) / 9)


def test_the_papers_concept_classifier_sees_source_and_edited_image_in_that_order(splits, detector, monkeypatch):
    found = flat_learner(splits, detector, monkeypatch, concept_classifier=ConceptView.pair).step()
    of_edits = (1.2, -0.6, 0.7, -0.7, 0.8)
    assert found["concept_classifier"].item() == pytest.approx(cross_entropy(*of_edits))
    assert found["concept"].item() == pytest.approx(cross_entropy(*of_edits, 0.9, 1.1))


def test_without_the_way_back_only_what_keeps_its_bin_is_reconstructed(splits, detector, monkeypatch):
    found = flat_learner(splits, detector, monkeypatch, cycle=0.0).step()
    assert found["reconstruction"].item() == pytest.approx(0.1)
    assert found["concept"].item() == pytest.approx(found["concept_classifier"].item())
    assert found["score"].item() == pytest.approx((0 + 0.4 + 0.6 + 0.4 + 0.5 + 0.3 + 0.4) / 7)


def test_noise_is_of_the_step_and_the_rank(splits, detector):
    learner, other = learner_of(splits, detector), learner_of(splits, detector)
    other.ranks = Ranks(rank=1, size=2)
    drawn = [torch.rand(3, generator=generator) for generator in
             (learner._noise(4), learner._noise(4), learner._noise(5), other._noise(4))]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])


def test_each_update_moves_one_network_and_never_the_detector(splits, detector, monkeypatch):
    learner = learner_of(splits, detector)
    moved: list[set[str]] = []
    real_step = game.take_step

    def watched(optimizer, loss):
        before = {name: weights(getattr(learner, name)) for name in NETWORKS}
        real_step(optimizer, loss)
        moved.append({name for name in NETWORKS if not same(before[name], weights(getattr(learner, name)))})

    monkeypatch.setattr(game, "take_step", watched)
    learner.step()
    assert moved == [{"discriminator"}, {"concept_classifier"}, {"generator"}]


def test_the_detector_stays_the_same_over_a_training(splits, detector):
    before = weights(detector)
    fit_generator(learner_of(splits, detector), lambda tick: None)
    assert same(before, weights(detector)) and not any(part.requires_grad for part in detector.parameters())


def test_a_resumed_training_ends_with_the_same_bits(splits, detector):
    whole = learner_of(splits, detector)
    fit_generator(whole, lambda tick: None)
    first = learner_of(splits, detector)
    for _ in range(4):
        first.step()
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(1234)  # other global randomness must not matter
    second = learner_of(splits, detector)
    second.load_state_dict(state)
    fit_generator(second, lambda tick: None)
    for name in ("generator", "average", "discriminator", "concept_classifier"):
        assert same(weights(getattr(whole, name)), weights(getattr(second, name))), name


@pytest.mark.parametrize("pull", [1.0, 0.0])
def test_of_a_generator_that_does_not_rise_only_the_way_to_normal_is_asked(splits, detector, pull):
    spec = small_generator(exact_skip=False)
    object.__setattr__(spec, "makes_anomalies", False)
    fit = dataclasses.replace(FIT, cycle=0.0, pull=pull, diversity=0.0, overlap=0.0, matching=0.0)
    batch = CounterfactualLearner(spec, fit, detector, splits, 0, CPU).sample(0)
    outliers = [4, 4, 5, 5, 6, 6, 7, 7] if pull else [4, 5, 6, 7]
    assert batch.indices.tolist() == [0, 2, *outliers] and batch.num_kept == 2  # half of the normal ones stay
    assert (batch.target_bins == 0).all() and len(batch.compared) == (4 if pull else 0)
    with pytest.raises(ConfigError, match="only makes images more normal has no way back; set fit.cycle=0"):
        CounterfactualLearner(spec, FIT, detector, splits, 0, CPU)


class Waits(TorchDispatchMode):
    """Notes each operation for whose result Python would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"):
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=True, crop_padding=2)])
def test_a_step_waits_for_no_value_of_a_tensor(splits, detector, augmentation):
    splits = dataclasses.replace(splits, augmentation=augmentation)
    learners = [learner_of(splits, detector), DetectorLearner(DETECTOR, ENCODER, splits, 0, CPU)]
    for learner in learners:
        learner.step()  # what is set up once may wait
        with Waits() as waits:
            learner.step()
        assert not waits.seen
    with Waits() as waits:
        torch.ones(1).item()
    assert waits.seen == ["aten::_local_scalar_dense"]


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
    num_changed = 2 if num_alpha_bins == 2 else 4  # of two bins the outliers' other one is among those compared
    changed, before = slice(4, 4 + num_changed), sample.bins_before
    assert sample.num_kept == 4 and sample.indices[:4].tolist() == [0, 2, 4, 6]
    assert (sample.target_bins[:4] == before[:4]).all() and (sample.target_bins[changed] != before[changed]).all()
    assert sample.indices[changed].tolist() == [1, 3, 5, 7][:num_changed]
    assert sample.compared.flatten().tolist() == [*range(4 + num_changed, len(sample.indices))]
    assert (sample.indices[sample.compared] == torch.tensor([4, 5, 6, 7])[:, None]).all()
    assert (sample.concepts[sample.compared] == torch.arange(num_concepts)).all()
    assert not sample.target_bins[sample.compared].any()
    assert sample.indices[sample.returning].tolist() == [1, 3, 5, 7]
    assert torch.equal(sample.sources[sample.compared[:, 0]], sample.images[4:])


@pytest.mark.parametrize(("levels", "is_bounded"), [((0, 40), True), ((120, 127), False)])
def test_noise_is_as_large_as_normals_bear(levels, is_bounded):
    """A detector of the mean: far below its threshold normals bear all noise, close to it little."""
    normals = torch.linspace(*levels, 200).byte().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    detector = LineDetector(None)  # logit 2 mean - 1; its threshold of 0 is a mean of 0.5, a grey of 191
    detector.threshold = torch.tensor(-1.0)  # a mean of 0, a grey of 127.5

    def borne(sigma: float) -> float:
        noise = step_generator(0, 0, "bearable noise")
        shaken = noisy(normals / 127.5 - 1, sigma, noise)
        return ((means(shaken) <= 0) == (means(normals / 127.5 - 1) <= 0)).float().mean().item()

    found = largest_bearable_noise(detector, normals, 0, CPU)
    if is_bounded:
        assert found == 0.2
    else:
        assert borne(found) >= 0.9 > borne(found + 0.2 / 2**8) and 0.001 < found < 0.1


def test_quantiles_are_those_of_held_out_normals_under_their_noise(splits, detector):
    held_out = splits.held_out.images
    clean = normal_levels(detector, held_out, dataclasses.replace(FIT, score_noise=0.0), 0, CPU)
    logits = logits_of(detector, held_out, CPU)
    torch.testing.assert_close(clean.quantiles, logits.quantile(torch.tensor([0.125, 0.375, 0.625, 0.875])))
    shaken = normal_levels(detector, held_out, dataclasses.replace(FIT, score_noise=0.2), 0, CPU)
    assert shaken.noise == 0.2 and not torch.equal(shaken.quantiles, clean.quantiles)
    assert clean.stop == pytest.approx(logits.sigmoid().neg().log1p().neg().mean().item())  # -log(1 - phi)
    assert normal_levels(detector, held_out, dataclasses.replace(FIT, score_stop=False), 0, CPU).stop is None


def test_in_bfloat16_the_losses_are_nearly_those_of_float32_and_the_weights_are_float32(splits, detector):
    ticks = []
    for dtype in (None, torch.bfloat16):
        learner = learner_of(splits, detector, dataclasses.replace(FIT, steps=1))
        learner.autocast_dtype = dtype
        fit_generator(learner, ticks.append)
        assert all(value.dtype == torch.float32 for value in weights(learner.generator))
    plain, fast = (torch.tensor([*tick.values.values()]) for tick in ticks)
    assert not torch.equal(plain, fast)
    torch.testing.assert_close(fast, plain, rtol=0.05, atol=0.02)


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
