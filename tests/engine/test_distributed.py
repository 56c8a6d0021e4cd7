"""Several processes do what one does: parts of the batch, noise, batch norm, gradients, and 20 steps of both stages."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cfexplain.detectors.bce import Bce
from cfexplain.detectors.fitting import DetectorLearner
from cfexplain.detectors.base import build_detector
from cfexplain.encoders.conv import Conv as ConvEncoder
from cfexplain.engine import stopping
from cfexplain.engine.distributed import share_batch_norms
from cfexplain.engine.distributed import ALONE, PeerLost, Ranks, joined
from cfexplain.engine.loop import Learner, train
from cfexplain.errors import ConfigError, FitError, Interrupted
from cfexplain.explanation.game import CounterfactualLearner
from cfexplain.explanation.objective import GeneratorTraining
from cfexplain.types import Augmentation, ImageSet, Splits
from tests.specs import small_fit, small_generator

CPU = torch.device("cpu")
PAIR = [Ranks(rank=0, size=2), Ranks(rank=1, size=2)]
DETECTOR = Bce(embedding_dim=8, steps=60, batch_size=16, learning_rate=1e-3, weight_decay=1e-4)
ENCODER = ConvEncoder(width=4)
GENERATOR = small_generator(condition_spread=0.02, exact_skip=False)
# Noise is each rank's own; without it the ranks' step is that of one process.
FIT = small_fit(steps=20, batch_size=16, num_alpha_bins=3, score_noise=0.0, concept_noise=0.0)


def pictures(kind: str, n: int, label: int, seed: int) -> ImageSet:
    """Noise; an anomaly has a bright square in the middle."""
    images = torch.randint(0, 90, (n, 1, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if label:
        images[:, :, 5:11, 5:11] += 90
    labels = torch.full((n,), label)
    return ImageSet(images=images, labels=labels, classes=labels, ids=tuple(f"{kind}/{i}" for i in range(n)))


def splits_of(augmentation: Augmentation | None = None) -> Splits:
    train = pictures("train", 64, 0, 0)
    return Splits(
        train=train, held_out=pictures("held", 32, 0, 1), exposure=pictures("exposure", 64, 1, 2), reference=train,
        test=pictures("test", 8, 1, 3), class_names=("dark", "square"), factors=None, augmentation=augmentation,
    )


def game_of(splits: Splits, ranks: Ranks, training: GeneratorTraining = FIT) -> CounterfactualLearner:
    detector = build_detector(DETECTOR, ENCODER, splits.image_shape, seed=3)
    return CounterfactualLearner(GENERATOR, training, detector, splits, 0, CPU, ranks)


def test_the_parts_of_a_batch_are_its_blocks_divided():
    rows = torch.arange(12)
    assert [ranks.part(rows).tolist() for ranks in PAIR] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert [ranks.part(rows, 4, 8).tolist() for ranks in PAIR] == [[0, 1, 4, 5, 6, 7], [2, 3, 8, 9, 10, 11]]
    assert ALONE.part(rows, 5, 7) is rows
    with pytest.raises(AssertionError):
        PAIR[0].part(rows, 5, 7)


@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=True, crop_padding=2)], ids=["plain", "augmented"])
def test_the_ranks_samples_are_the_halves_of_one_batch(augmentation):
    splits = splits_of(augmentation)
    whole, parts = game_of(splits, ALONE).sample(7), [game_of(splits, ranks).sample(7) for ranks in PAIR]

    def own(batch, name):  # of the pairs, those that are not compared, in the order of their images
        values, num_images = getattr(batch, name), len(batch.images)
        return values if name in ("images", "source_bins") else values[batch.indices[:num_images].argsort()]

    for name in ("images", "source_bins", "target_bins", "concepts"):
        blocks = [own(part, name).split([4, 4]) for part in parts]
        joined_ = torch.cat([blocks[0][0], blocks[1][0], blocks[0][1], blocks[1][1]])
        torch.testing.assert_close(joined_, own(whole, name), msg=name)
    for part in parts:  # every second image keeps its bin, in each part too
        assert part.num_kept == 4 and (part.target_bins[:4] == part.bins_before[:4]).all()
        assert (part.target_bins[4:8] != part.bins_before[4:8]).all()


def test_alone_nothing_is_replaced_and_no_step_is_hooked():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before, optimizer = network[1], torch.optim.Adam(network.parameters())
    share_batch_norms(network, ALONE), ALONE.average_gradients_of(optimizer)
    assert network[1] is before and "forward" not in vars(before) and not optimizer._optimizer_step_pre_hooks


def test_a_norm_that_does_more_is_not_shared_but_refused_where_it_is_trained():
    class WithActivation(nn.BatchNorm2d):
        def forward(self, features):
            return super().forward(features).relu()

    network = nn.Sequential(WithActivation(2))
    with pytest.raises(ConfigError, match="WithActivation is trained by one process alone"):
        share_batch_norms(network, PAIR[0])
    share_batch_norms(network.eval(), PAIR[0])
    assert network(-torch.ones(1, 2, 1, 1)).eq(0).all()  # its activation is still there


# What follows needs processes.


def on_two(tmp_path: Path, monkeypatch, function, *arguments) -> list:
    """What function(ranks, *arguments) returns in each of two processes."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(_rank, (tmp_path, function, arguments), nprocs=2)
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _rank(rank: int, folder: Path, function, arguments) -> None:
    torch.set_num_threads(1)
    with joined(rank, 2, f"file://{folder / 'ranks'}", CPU) as ranks:
        torch.save(function(ranks, *arguments), folder / f"{rank}.pt")


def norm_case(ranks: Ranks) -> dict:
    """A step through batch norm on this rank's rows; the loss weighs each entry of the batch differently."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 3, 5, 4, generator=generator, dtype=torch.float64) * 3 + 50
    weights = torch.randn(features.shape, generator=generator, dtype=torch.float64)
    network = nn.Sequential(nn.BatchNorm2d(3, eps=1e-4)).double()
    nn.init.normal_(network[0].weight, generator=generator), nn.init.normal_(network[0].bias, generator=generator)
    share_batch_norms(network, ranks)
    rows = ranks.part(features).requires_grad_(True)
    (network(rows).square() * ranks.part(weights)).mean().backward()
    norm = network[0]
    return {
        "is_shared": "forward" in vars(norm), "names": list(network.state_dict()),
        "rows": ranks.gathered(rows.grad).detach() / ranks.size, "weight": ranks.mean(norm.weight.grad),
        "bias": ranks.mean(norm.bias.grad), "mean": norm.running_mean, "var": norm.running_var,
        "count": norm.num_batches_tracked, "eval": network.eval()(features).detach(),
    }


@pytest.mark.slow
def test_batch_norm_is_that_of_the_whole_batch(tmp_path, monkeypatch):
    wanted = norm_case(ALONE)
    for found in on_two(tmp_path, monkeypatch, norm_case):
        assert found.pop("is_shared") and not wanted["is_shared"]
        assert found.pop("names") == wanted["names"]
        for name, value in found.items():  # float64, values near 50: 1e-11 is rounding
            torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-11, msg=name)


def agreement_case(ranks: Ranks) -> dict:
    rank = torch.tensor(float(ranks.rank))
    weight = torch.tensor([2.0 + ranks.rank], requires_grad=True)
    others = ranks.gathered(weight * 3)
    (others * torch.tensor([1.0, 10.0]) * (ranks.rank + 1)).sum().backward()  # rank 1 wants twice as much
    ranks.check_same([torch.ones(3), torch.tensor(5)], "ones")
    try:
        ranks.check_same([torch.ones(3) + rank * 1e-7], "weights")
        difference = ""
    except FitError as error:
        difference = str(error)
    return {
        "mean": ranks.mean(rank), "gathered": others.detach(), "gradient": weight.grad,
        "none": ranks.agreed_stop(None) is None, "stop": ranks.agreed_stop("SIGUSR1" if ranks.rank else None),
        "shared": ranks.shared({"weights": torch.full((2,), 7.0 + ranks.rank)}), "difference": difference,
    }


@pytest.mark.slow
def test_the_ranks_agree(tmp_path, monkeypatch):
    found = on_two(tmp_path, monkeypatch, agreement_case)
    for values in found:
        assert values["mean"] == 0.5 and values["gathered"].tolist() == [6.0, 9.0]
        assert values["none"] and values["stop"] == "SIGUSR1"
        assert values["shared"]["weights"].tolist() == [7.0, 7.0]
        assert "weights differ between the processes" in values["difference"]
    assert [values["gradient"].item() for values in found] == [3 * (1 + 2), 3 * 10 * (1 + 2)]


def lost_case(ranks: Ranks, said: Path) -> None:
    if ranks.rank == 1:
        os._exit(0)  # as if it were killed
    try:
        ranks.mean(torch.ones(1))
    except PeerLost as error:
        said.write_text(str(error))
    os._exit(0)


@pytest.mark.slow
def test_a_lost_peer_is_an_error_with_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(_rank, (tmp_path, lost_case, (tmp_path / "said",)), nprocs=2)
    assert "a process of this run is gone" in (tmp_path / "said").read_text()


class Count(Learner):
    """Its loss is the rank's number; it has no weights."""

    stage, advice, images_per_step, parts, device = "count", "", 1, {}, CPU

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.steps_done, self.weight = ranks, 0, torch.zeros(1)

    def step(self) -> dict:
        self.steps_done += 1
        return {"loss": torch.tensor(float(self.ranks.rank))}

    def state_dict(self) -> dict:
        return {"weight": self.weight}


def loop_case(ranks: Ranks) -> dict:
    """Rank 1 alone is asked to stop, after step 5."""
    learner, ticks, saved = Count(ranks), [], []
    stopping.requested = lambda: "SIGTERM" if ranks.rank == 1 and learner.steps_done == 5 else None
    try:
        save = lambda: saved.append(learner.steps_done)  # noqa: E731
        train(learner, 20, 2, ticks.append, save=save, save_every_steps=3)
    except Interrupted as stop:
        return {"said": str(stop), "losses": [tick.values["loss"] for tick in ticks], "saved": saved}
    return {}


@pytest.mark.slow
def test_all_ranks_stop_after_the_step_at_which_one_is_asked_to(tmp_path, monkeypatch):
    for found in on_two(tmp_path, monkeypatch, loop_case):
        assert found["said"].startswith("stopped by SIGTERM after step 5 of the count")
        assert found["losses"] == [0.5, 0.5] and found["saved"] == [3, 5]


def twenty_steps(ranks: Ranks, dtype: str) -> dict:
    """Losses of each step, and the weights after them."""
    if dtype == "float64":
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double  # where the code asks for float32, too
    splits, found, training = splits_of(), {}, FIT
    if dtype == "float32":  # Adam with beta_1 = 0 turns rounding near a gradient of 0 into steps of the learning rate
        training = replace(FIT, learning_rate=1e-5, discriminator_learning_rate=1e-5)
    for learner in (DetectorLearner(DETECTOR, ENCODER, splits, 0, CPU, ranks), game_of(splits, ranks, training)):
        losses = []
        for _ in range(20):
            values = learner.step()
            losses.append(ranks.mean(torch.stack(list(values.values()))))
        found[learner.stage] = {"names": list(values), "losses": torch.stack(losses)}
        state = learner.state_dict()
        found[learner.stage]["weights"] = {
            name: copy.deepcopy(state[name]) for name in ("detector", "generator", "average", "discriminator",
                                                         "concept_classifier") if name in state
        }
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_twenty_steps_of_two_processes_are_those_of_one(tmp_path, monkeypatch, dtype, tolerance):
    """float64 shows that nothing but rounding differs; benchmarks/processes.py has float32 at real sizes."""
    two = on_two(tmp_path, monkeypatch, twenty_steps, dtype)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)  # put back at the end
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = twenty_steps(ALONE, dtype)
    finally:
        torch.set_default_dtype(torch.float32), torch.set_num_threads(threads)
    for stage in ("detector", "generator"):
        gaps = (one[stage]["losses"] - two[0][stage]["losses"]).abs().max(dim=0).values
        assert dict(zip(one[stage]["names"], gaps.tolist())) == pytest.approx(
            dict.fromkeys(one[stage]["names"], 0.0), abs=tolerance
        )
        for name, weights in two[0][stage]["weights"].items():
            for key, value in weights.items():
                assert torch.equal(value, two[1][stage]["weights"][name][key]), key
                if dtype == "float64":
                    torch.testing.assert_close(value, one[stage]["weights"][name][key], rtol=0, atol=1e-8)
