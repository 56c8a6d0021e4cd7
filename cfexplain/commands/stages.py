"""A training, in two stages: the detector, then the generator; on rank 0, which writes, and on the others.

`train_other_rank` meets the ranks in the order in which `train_detector` and `train_generator` do: it waits for what
these share.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cfexplain.commands.base import Job, WITHOUT_DIGEST
from cfexplain.commands.train_config import Stage, TrainConfig
from cfexplain.commands.trained_run import digest_of, load_detector, save_detector
from cfexplain.data.splits import counts, role_lines
from cfexplain.detectors.base import build_detector, Detector, logits_of
from cfexplain.detectors.external.calibration import calibrate_external
from cfexplain.detectors.fitting import DetectorLearner, LOG_EVERY_STEPS
from cfexplain.detectors.gaussian import fit_gaussian, Gaussian
from cfexplain.engine import checkpoint
from cfexplain.engine.distributed import Ranks
from cfexplain.engine.loop import Learner, train
from cfexplain.engine.runtime import autocast_dtype, device_name
from cfexplain.errors import ConfigError
from cfexplain.explanation.explain import explain_images, FittedModel
from cfexplain.explanation.flow import edited_exposure, FlowLearner, play_after
from cfexplain.explanation.game import build_concept_classifier, CounterfactualLearner
from cfexplain.explanation.untrained import fit_untrained
from cfexplain.files import write_csv
from cfexplain.generators.flow_edit import FlowEdit, FlowEdited, FlowEditor
from cfexplain.lazy import torch
from cfexplain.metrics.auroc import detector_aurocs, unlike_normals
from cfexplain.reporting.grids import counterfactual_grid, preview_grid, spread, write_picture
from cfexplain.reporting.live import LivePage
from cfexplain.reporting.samples import split_rows
from cfexplain.reporting.tensorboard import TensorBoard
from cfexplain.runs.folder import check_free_space
from cfexplain.types import ImageSet, Splits

REMEDY = "delete it and run the same command again"
NUM_RESAMPLES = 1000  # of the intervals of the detector's AuROC
NETWORK_COPIES = 4 * 3  # weights, two moments of Adam, an average; in the last checkpoint, the one before, a new one
PICTURES_MB = 5


def train_run(config: TrainConfig, job: Job, device: torch.device, ranks: Ranks) -> dict[str, float | str]:
    """Alone, or as rank 0 of several."""
    job.folder.update(seed=config.seed, device=device_name(device), processes=ranks.size)
    boards = [TensorBoard(job.folder.path)] if config.tensorboard else []
    job.reporter.watchers = [LivePage(job.folder.path), *boards]
    with job.timed("data"):
        splits = replace(config, run_dir=str(job.folder.path)).load_splits()
    for line in roles(splits):
        job.reporter.say(line)
    check_free_space(job.folder.path, _wanted_mb(config, splits))
    split_file = job.folder.path / "split.csv"
    if not (split_file.exists() and any(job.folder.checkpoints.glob("*.pt"))):  # else it says what was learned from
        write_csv(split_file, split_rows(splits))
    write_picture(job.folder.images / "data_preview.png", preview_grid(splits, config.num_grid_images))
    with job.timed("detector"):
        detector = train_detector(config, job, splits, device, ranks)
    metrics = _detector_metrics(detector, splits, config.seed, device)
    if "detector_auroc" not in metrics:
        job.note("the dataset has no test anomalies: detector_auroc is left out")
    job.note(unlike_normals(metrics))
    job.folder.write_metrics(metrics)
    if config.stage is not Stage.detector:
        with job.timed("generator"):
            train_generator(config, job, splits, detector, device, ranks)
    return metrics


def roles(splits: Splits) -> Iterator[str]:
    """What the images are used for: of a set of many classes the counts, of a folder each group."""
    yield counts(splits)
    if splits.factors is None:
        yield from (f"  {line}" for line in role_lines(splits))


def num_parameters(config: TrainConfig, splits: Splits) -> dict[str, int]:
    shape, fit, spec = splits.image_shape, config.fit, config.generator
    networks = {
        "detector": build_detector(config.detector, config.encoder, shape, config.seed),
        "generator": spec.build_generator(shape, fit.num_alpha_bins, fit.num_concepts),
    }
    if spec.is_trained:
        networks["discriminator"] = spec.build_discriminator(shape, fit.num_alpha_bins)
        networks["concept classifier"] = build_concept_classifier(spec, fit, shape)
    return {name: sum(part.numel() for part in network.parameters()) for name, network in networks.items()}


def _wanted_mb(config: TrainConfig, splits: Splits) -> float:
    """Upper bound of what a training writes; of float32."""
    return sum(num_parameters(config, splits).values()) * 4 * NETWORK_COPIES / 2**20 + PICTURES_MB


def _detector_metrics(detector: Detector, splits: Splits, seed: int, device: torch.device) -> dict[str, float | str]:
    def logits(images: ImageSet) -> np.ndarray:
        return logits_of(detector, images.images, device).numpy()

    anomalous = logits(splits.test_anomalies) if splits.has_test_anomalies else None
    return {**detector_aurocs(logits(splits.held_out), logits(splits.test_normals), anomalous, seed, NUM_RESAMPLES)}


def train_detector(config: TrainConfig, job: Job, splits: Splits, device: torch.device, ranks: Ranks) -> Detector:
    """Fit it, or take it from the run that is continued."""
    path = job.folder.checkpoints / "detector.pt"
    if path.exists():
        job.reporter.say(f"detector taken from {path}")
        detector = load_detector(config, path, REMEDY, device)
        if digest_of(path) is None:
            job.note(WITHOUT_DIGEST.format(path))
    elif config.stage is Stage.generator:
        raise ConfigError(f"stage=generator needs {path}: train it first with stage=detector run_dir={config.run_dir}")
    elif not config.detector.is_trained:
        detector = _take_over(config, job, splits, device)
    else:
        return _fit_detector(config, job, splits, device, ranks)
    ranks.shared({"folder": str(path.parent.resolve()), "weights": detector.state_dict()})
    return detector


def _fit_detector(config: TrainConfig, job: Job, splits: Splits, device: torch.device, ranks: Ranks) -> Detector:
    ranks.shared(None)
    folder = job.folder.checkpoints
    learner = DetectorLearner(config.detector, config.encoder, splits, config.seed, device, ranks)
    learner.autocast_dtype = autocast_dtype(config.runtime, device)
    _resume(learner, job)
    train(
        learner, config.detector.steps, LOG_EVERY_STEPS, job.reporter,
        save=lambda: checkpoint.save_learner(learner, folder), save_every_steps=config.fit.checkpoint_every_steps,
    )
    detector = learner.fitted()
    digest = save_detector(detector, splits.image_shape, folder / "detector.pt")
    job.folder.note_weights("detector.pt", digest)
    return detector


def _take_over(config: TrainConfig, job: Job, splits: Splits, device: torch.device) -> Detector:
    """One that takes no steps: made, calibrated, and kept in the run's folder with all that it is read from."""
    detector, message = ready_detector(config, splits, device)
    job.reporter.say(message)
    config.detector.copy_files(job.folder.checkpoints)  # before the checkpoint, whose presence says that all is there
    digest = save_detector(detector, splits.image_shape, job.folder.checkpoints / "detector.pt")
    job.folder.note_weights("detector.pt", digest)
    return detector


def ready_detector(config: TrainConfig, splits: Splits, device: torch.device) -> tuple[Detector, str]:
    """Frozen and calibrated, from a spec with is_trained=False; and what was found in one line."""
    make = fit_gaussian if isinstance(config.detector, Gaussian) else calibrate_external
    return make(config.detector, config.encoder, splits, config.seed, device)


def _resume(learner: Learner, job: Job) -> None:
    """Take the learner to where its last checkpoint stands, and the history with it."""
    found = checkpoint.resume(learner, job.folder.checkpoints, REMEDY)
    if learner.steps_done:
        job.reporter.say(f"{learner.stage} continues at step {learner.steps_done}")
    if found is not None and found.damaged is not None:
        where = f"the one before it, {found.path.name}: {learner.stage} at step {learner.steps_done}"
        job.note(f"{found.damaged} was damaged; the run went on from {where}")
    job.reporter.begin_stage(learner.stage, learner.steps_done)


def train_generator(
    config: TrainConfig, job: Job, splits: Splits, detector: Detector, device: torch.device, ranks: Ranks
) -> None:
    """Play the game to its end, from wherever the run stands, or fit what needs none; and draw what came of it."""
    if config.generator.is_trained:
        model = _play(config, job, splits, detector, device, ranks)
    else:
        model = fit_untrained(config.generator, config.fit, detector, splits, config.seed, device)
    values = {"image_shape": list(splits.image_shape), "generator": model.generator.state_dict()}
    if model.concept_classifier is not None:
        values["concept_classifier"] = model.concept_classifier.state_dict()
    digest = checkpoint.save(job.folder.checkpoints / "generator.pt", values)
    job.folder.note_weights("generator.pt", digest)
    anomalies = _some(splits.explained, config.num_grid_images)
    picture = counterfactual_grid(explain_images(model, anomalies, device), range(len(anomalies)))
    write_picture(job.folder.images / "counterfactuals.png", picture)


def _play(
    config: TrainConfig, job: Job, splits: Splits, detector: Detector, device: torch.device, ranks: Ranks
) -> FittedModel:
    # Pictures while training show exposure images: the test set is for the end.
    shown, spec, psi = _some(splits.exposure, config.num_grid_images), config.generator, None
    if isinstance(spec, FlowEdit):
        psi, splits = _flow(config, job, splits, device, ranks)
        spec = spec.editor
    learner = CounterfactualLearner(spec, config.fit, detector, splits, config.seed, device, ranks)
    learner.autocast_dtype = autocast_dtype(config.runtime, device)
    job.folder.update(score_noise=learner.levels.noise)
    _resume(learner, job)

    def fitted() -> FittedModel:
        model = learner.fitted()
        return model if psi is None else replace(model, generator=FlowEdited(psi, model.generator))

    def draw() -> None:
        if learner.steps_done % config.fit.image_every_steps == 0:
            picture = counterfactual_grid(explain_images(fitted(), shown, device), range(len(shown)))
            file = job.folder.images / f"counterfactuals-{learner.steps_done:06d}.png"
            write_picture(file, picture)
            job.reporter.picture(file, learner.steps_done)

    folder = job.folder.checkpoints
    train(
        learner, config.fit.steps, config.fit.log_every_steps, job.reporter, on_step=draw,
        save=lambda: checkpoint.save_learner(learner, folder), save_every_steps=config.fit.checkpoint_every_steps,
    )
    return fitted()


def _flow(
    config: TrainConfig, job: Job, splits: Splits, device: torch.device, ranks: Ranks
) -> tuple[FlowEditor, Splits]:
    """psi, trained or taken from the run that is continued, and what it makes of the images of the game."""
    path, folder = job.folder.checkpoints / "flow.pt", job.folder.checkpoints
    learner = FlowLearner(config.generator, splits, config.seed, device, ranks)
    if path.exists():
        values = checkpoint.load(path, REMEDY, digest_of(path))
        checkpoint.restore(learner.average, values, "flow", path, REMEDY)
        ranks.shared(values)
    else:
        ranks.shared(None)
        learner.autocast_dtype = autocast_dtype(config.runtime, device)
        _resume(learner, job)
        train(
            learner, config.generator.steps, LOG_EVERY_STEPS, job.reporter,
            save=lambda: checkpoint.save_learner(learner, folder), save_every_steps=config.fit.checkpoint_every_steps,
        )
        edited = edited_exposure(learner.fitted(), splits, config.seed, device)
        values = {"flow": learner.average.state_dict(), **edited}
        job.folder.note_weights("flow.pt", checkpoint.save(path, values))
        ranks.shared(values)
    return learner.fitted(), play_after(splits, values["rows"], values["edited"])


def _some(images: ImageSet, number: int) -> ImageSet:
    return images.select(torch.tensor(spread(len(images), number), dtype=torch.long))


def train_other_rank(config: TrainConfig, device: torch.device, ranks: Ranks) -> None:
    """Both stages for a rank other than 0: the same computations, nothing said or written."""
    warnings.simplefilter("ignore")
    splits = config.load_splits()
    if (found := ranks.shared(None)) is not None:  # rank 0 has one, ready
        spec = config.detector.with_files_in(Path(found["folder"]))
        detector = build_detector(spec, config.encoder.without_weights, splits.image_shape, config.seed)
        detector.load_state_dict(found["weights"])
        detector.to(device).eval().requires_grad_(False)
    else:
        learner = DetectorLearner(config.detector, config.encoder, splits, config.seed, device, ranks)
        learner.autocast_dtype = autocast_dtype(config.runtime, device)
        _train_alongside(learner, config.detector.steps, LOG_EVERY_STEPS, config)
        detector = learner.fitted()
    if config.plays_game:
        spec = config.generator
        if isinstance(spec, FlowEdit):
            if (values := ranks.shared(None)) is None:
                flow = FlowLearner(spec, splits, config.seed, device, ranks)
                flow.autocast_dtype = autocast_dtype(config.runtime, device)
                _train_alongside(flow, spec.steps, LOG_EVERY_STEPS, config)
                values = ranks.shared(None)
            spec, splits = spec.editor, play_after(splits, values["rows"], values["edited"])
        game = CounterfactualLearner(spec, config.fit, detector, splits, config.seed, device, ranks)
        game.autocast_dtype = autocast_dtype(config.runtime, device)
        _train_alongside(game, config.fit.steps, config.fit.log_every_steps, config)


def _train_alongside(learner: Learner, num_steps: int, log_every_steps: int, config: TrainConfig) -> None:
    checkpoint.resume_with_rank_0(learner)
    train(
        learner, num_steps, log_every_steps, report=lambda tick: None, save=lambda: None,
        save_every_steps=config.fit.checkpoint_every_steps,
    )
