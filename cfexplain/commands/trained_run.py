"""A finished train run, opened again: its config first, its networks when they are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfexplain import config as configs
from cfexplain.commands.train_config import TrainConfig
from cfexplain.detectors.base import build_detector, Detector
from cfexplain.detectors.external.calibration import check_unchanged
from cfexplain.engine import checkpoint
from cfexplain.errors import DataError
from cfexplain.explanation.explain import FittedModel
from cfexplain.explanation.game import build_concept_classifier
from cfexplain.files import read_json
from cfexplain.lazy import torch
from cfexplain.older_runs import LATER, todays_target
from cfexplain.runs.lookup import find_run, parent_runs
from cfexplain.types import ImageShape

REMEDY = "train again: cfexplain train --from {folder}/config.yaml"


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """folder: of the train run; explained: of the explain run that led here, or None."""

    folder: Path
    explained: Path | None
    config: TrainConfig

    @property
    def slug(self) -> str:
        return self.config.slug

    @property
    def parents(self) -> list[Path]:
        return [self.folder, *([self.explained] if self.explained else [])]

    def image_shape(self) -> ImageShape:
        path, remedy = self.folder / "checkpoints" / "generator.pt", REMEDY.format(folder=self.folder)
        return _image_shape(checkpoint.load(path, remedy), path, remedy)

    def load_model(self, device: torch.device) -> FittedModel:
        return load_model(self, device)


def open_run(
    run: str, output_root: str, cache_dir: str, allow_custom_code: bool, commands: tuple[str, ...] = ("train",)
) -> TrainedRun:
    """Find a run and read its config; torch stays unloaded. `commands`: whose runs are taken, best first."""
    folder, explained = find_run(run, Path(output_root), commands), None
    if read_json(folder / "run.json")["command"] == "explain":
        parents = parent_runs(folder)
        if not parents:
            raise DataError(f"{folder} ended before it noted what it explains; again: cfexplain explain run=...")
        explained, folder = folder, parents[0]
        if not (folder / "run.json").is_file():
            raise DataError(f"{explained} explains {folder}, which is gone; train one: cfexplain train")
    if not (folder / "checkpoints" / "generator.pt").is_file():
        status = read_json(folder / "run.json").get("status")
        raise DataError(
            f"{folder} has no trained generator (status: {status}); finish it: cfexplain train --from "
            f"{folder / 'config.yaml'} stage=all run_dir={folder}"
        )
    values = configs.read(folder / "config.yaml")
    values["allow_custom_code"] = allow_custom_code  # what the run was allowed allows no other command
    values["stage"] = "all"  # it has both, whichever it made last
    if isinstance(values.get("dataset"), dict):
        values["dataset"]["cache_dir"] = cache_dir  # the run may come from another machine
    values["tensorboard"] = False  # a finished run needs no such package, and may be older than that value
    for group in (part for part in values.values() if isinstance(part, dict)):
        group |= LATER.get(todays_target(str(group.get("_target_"))), {}) | group
    return TrainedRun(
        folder=folder, explained=explained, config=configs.build_root(values, TrainConfig, allow_custom_code)
    )


def load_detector(config: TrainConfig, path: Path, remedy: str, device: torch.device) -> Detector:
    values = checkpoint.load(path, remedy)
    spec, image_shape = config.detector.with_files_in(path.parent), _image_shape(values, path, remedy)
    detector = build_detector(spec, config.encoder.without_weights, image_shape, config.seed)
    checkpoint.restore(detector, values, "detector", path, remedy)
    detector.to(device).eval().requires_grad_(False)
    if not spec.is_trained:
        check_unchanged(detector, image_shape, path, remedy)
    return detector


def load_model(run: TrainedRun, device: torch.device) -> FittedModel:
    remedy = REMEDY.format(folder=run.folder)
    detector = load_detector(run.config, run.folder / "checkpoints" / "detector.pt", remedy, device)
    path = run.folder / "checkpoints" / "generator.pt"
    values = checkpoint.load(path, remedy)
    shape, fit, spec = _image_shape(values, path, remedy), run.config.fit, run.config.generator
    generator = spec.build_generator(shape, fit.num_alpha_bins, fit.num_concepts)
    classifier = build_concept_classifier(spec, fit, shape)
    checkpoint.restore(generator, values, "generator", path, remedy)
    checkpoint.restore(classifier, values, "concept_classifier", path, remedy)
    return FittedModel(
        detector=detector,
        generator=generator.to(device).eval().requires_grad_(False),
        concept_classifier=classifier.to(device).eval().requires_grad_(False),
        num_concepts=fit.num_concepts,
        num_alpha_bins=fit.num_alpha_bins,
    )


def _image_shape(values: dict, path: Path, remedy: str) -> ImageShape:
    shape = values.get("image_shape")
    if not (isinstance(shape, list) and len(shape) == 3):
        raise DataError(f"{path} is no checkpoint of a detector or generator; {remedy}")
    return tuple(shape)  # type: ignore[return-value]
