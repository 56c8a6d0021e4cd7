"""How long a training step takes, against a plain loop of the same networks and losses.

    python benchmarks/training.py                     coloured glyphs, default sizes, on a GPU if there is one
    python benchmarks/training.py fit.batch_size=64   with any values of cfexplain train

The plain loop is what one would write from the paper: images as float32 from a DataLoader, every term by a pass of its
own, float32 without a change of layout, torch's defaults otherwise. Both take turns, a block of steps each; a line says
the median seconds a step of both and their ratio. Then how far the losses of one step lie from those in float32, and,
on a GPU, that a step never waits for it.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cfexplain import compose, config
from cfexplain.command_line import parse
from cfexplain.commands.train_config import TrainConfig
from cfexplain.data.batches import to_float
from cfexplain.detectors.base import build_detector, Detector
from cfexplain.detectors.fitting import DetectorLearner
from cfexplain.engine.loop import Learner
from cfexplain.engine.runtime import autocast_dtype, device_name, start_torch
from cfexplain.explanation.game import CounterfactualLearner
from cfexplain.explanation.objective import (
    build_concept_classifier, diversity_losses, l1_distances, matching_loss, overlap_losses, score_losses,
)
from cfexplain.types import ImageSet, Splits

ROUNDS, STEPS_A_ROUND = 7, 8


def main(words: list[str]) -> None:
    warnings.simplefilter("ignore")
    (composed,) = compose.compositions(parse("train", words))
    settings = config.build_root(composed, TrainConfig)
    device = start_torch(settings.runtime, settings.device)
    splits, dtype = settings.load_splits(), autocast_dtype(settings.runtime, device)
    print(f"torch {torch.__version__}, {device_name(device)}, {torch.get_num_threads()} threads, {dtype or 'float32'}")
    detector_learner = DetectorLearner(settings.detector, settings.encoder, splits, settings.seed, device)
    compare("detector", detector_learner, plain_detector_step(settings, splits, device), dtype)
    detector = detector_learner.fitted()
    game = CounterfactualLearner(settings.generator, settings.fit, detector, splits, settings.seed, device)
    compare("generator", game, plain_game_step(settings, splits, detector, game.levels.stop, device), dtype)


def compare(stage: str, learner: Learner, plain_step: Callable[[], None], dtype: torch.dtype | None) -> None:
    def fast_step() -> None:
        with torch.autocast(learner.device.type, dtype, dtype is not None):
            learner.step()

    seconds: dict[str, list[float]] = {"cfexplain": [], "plain": []}
    check_step(learner, dtype)
    for _ in range(ROUNDS + 1):
        for name, step in (("cfexplain", fast_step), ("plain", plain_step)):
            wait(learner.device)
            started = time.perf_counter()
            for _ in range(STEPS_A_ROUND):
                step()
            wait(learner.device)
            seconds[name].append((time.perf_counter() - started) / STEPS_A_ROUND)
    fast, plain = (statistics.median(values[1:]) for values in seconds.values())  # the first round warms up
    rates = [f"{learner.images_per_step / value:.0f} images/s" for value in (fast, plain)]
    print(f"{stage}: cfexplain {fast:.4f} s a step, {rates[0]}; plain loop {plain:.4f} s, {rates[1]}; "
          f"ratio {plain / fast:.2f}", flush=True)


def check_step(learner: Learner, dtype: torch.dtype | None) -> None:
    """The same step from the same state in float32 and in `dtype`; then one that raises where it waits for the GPU."""
    state, losses = copy.deepcopy(learner.state_dict()), []
    for used in (None, dtype):
        learner.load_state_dict(copy.deepcopy(state))
        with torch.autocast(learner.device.type, used, used is not None):
            losses.append({name: value.item() for name, value in learner.step().items()})
    furthest = max(abs(losses[1][name] - value) / max(abs(value), 0.1) for name, value in losses[0].items())
    print(f"{learner.stage}: losses of one step in {dtype or 'float32'} within {furthest:.1%} of float32")
    if learner.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        learner.step()
        torch.cuda.set_sync_debug_mode("default")
        print(f"{learner.stage}: a step waits for no value")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def endless(images: ImageSet, batch_size: int) -> Iterator[Tensor]:
    """(batch_size, C, H, W) float32 in [-1, 1]."""
    loader = DataLoader(TensorDataset(to_float(images.images)), batch_size, shuffle=True, drop_last=True)
    while True:
        yield from (batch for (batch,) in loader)


def plain_detector_step(settings: TrainConfig, splits: Splits, device: torch.device) -> Callable[[], None]:
    spec = settings.detector
    detector = build_detector(spec, settings.encoder, splits.image_shape, settings.seed).to(device)
    detector.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(detector.parameters(), spec.learning_rate, weight_decay=spec.weight_decay)
    sources = [splits.train] + ([splits.exposure] if spec.needs_exposure else [])
    loaders = [endless(images, spec.batch_size) for images in sources]

    def step() -> None:
        batches = [next(loader).to(device) for loader in loaders]
        labels = torch.cat([torch.full((len(batch),), label, device=device) for label, batch in enumerate(batches)])
        loss = detector.losses(torch.cat(batches), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # for the progress bar

    return step


def plain_game_step(
    settings: TrainConfig, splits: Splits, detector: Detector, stop: float | None, device: torch.device
) -> Callable[[], None]:
    """DISSECT's step, each term by a pass of its own, with the terms that conf/fit adds."""
    fit, spec, shape = settings.fit, settings.generator, splits.image_shape
    bins, concepts, half = fit.num_alpha_bins, fit.num_concepts, fit.batch_size // 2
    G = spec.build_generator(shape, bins, concepts).to(device)
    D = spec.build_discriminator(shape, bins).to(device)
    R = build_concept_classifier(spec, fit, shape).to(device)
    detector = copy.deepcopy(detector).to(memory_format=torch.contiguous_format)
    betas = (fit.beta_1, fit.beta_2)
    of_g, of_r = (torch.optim.Adam(network.parameters(), fit.learning_rate, betas) for network in (G, R))
    of_d = torch.optim.Adam(D.parameters(), fit.discriminator_learning_rate, betas)
    loaders = [endless(images, half) for images in (splits.train, splits.exposure)]
    held_out = endless(splits.held_out, half)

    def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        for other in (of_g, of_d, of_r):
            other.zero_grad()
        loss.backward()
        optimizer.step()

    def step() -> None:
        x = torch.cat([next(loader).to(device) for loader in loaders])
        with torch.no_grad():
            b = (detector.log_probs(x).score * bins).long().clamp_max(bins - 1)
            normal_logits = detector.log_probs(next(held_out).to(device)).logit.sort().values
        a, k = (torch.randint(count, (len(x),), device=device) for count in (bins, concepts))
        edited = G(x, a, k)
        update(of_d, F.relu(1 - D(x, b)).mean() + F.relu(1 + D(edited.detach(), a)).mean())
        update(of_r, F.cross_entropy(R(x, edited.detach()), k))

        back = G(edited, b, k)
        losses = fit.adversarial * -D(edited, a).mean()
        for images, wanted in ((edited, a), (back, b)):
            found = detector.log_probs(images + 0.05 * torch.randn_like(images))
            losses += fit.score * score_losses(found.log_anomalous, found.log_normal, wanted / (bins - 1), stop).mean()
        losses += fit.reconstruction * (l1_distances(G(x, b, k), x).mean() + l1_distances(back, x).mean())
        losses += fit.concept * F.cross_entropy(R(torch.cat([x, edited]), torch.cat([edited, back])), k.repeat(2))
        if fit.compares_concepts:
            outliers, zero = x[half:], torch.zeros_like(a[half:])
            found = [G(outliers, zero, torch.full_like(zero, concept)) for concept in range(concepts)]
            for images in found:
                logits = detector.log_probs(images).logit
                losses += fit.matching * matching_loss(logits, normal_logits) / concepts
                losses += fit.pull * l1_distances(images, outliers).mean() / concepts
            if concepts > 1:
                losses += fit.diversity * diversity_losses(torch.stack(found, dim=1), fit.diversity_margin).mean()
                losses += fit.overlap * overlap_losses(outliers, torch.stack(found, dim=1)).mean()
        update(of_g, losses)
        losses.item()  # for the progress bar

    return step


if __name__ == "__main__":
    main(sys.argv[1:])
