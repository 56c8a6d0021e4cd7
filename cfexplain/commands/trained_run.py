"""A finished train run, opened again: its config first, its networks when they are wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfexplain import config as configs
from cfexplain.commands.base import ROOT_KEYS
from cfexplain.commands.train_config import TrainConfig
from cfexplain.data.own_images import test_anomalies
from cfexplain.data.recorded_split import DIGEST_LENGTH
from cfexplain.detectors.base import build_detector, Detector
from cfexplain.detectors.external.calibration import check_unchanged
from cfexplain.detectors.external.spec import External
from cfexplain.engine import checkpoint
from cfexplain.errors import ConfigError, DataError
from cfexplain.explanation.explain import FittedModel, look_with
from cfexplain.explanation.game import build_concept_classifier
from cfexplain.explanation.untrained import untrained_model
from cfexplain.inspection.saved import SavedInspections
from cfexplain.lazy import torch
from cfexplain.older_runs import with_missing_values
from cfexplain.runs.lookup import find_run, parent_runs, read_record, record_of
from cfexplain.types import Explanations, ImageShape, Splits
from cfexplain.version import VERSION

MAX_SIDE = 4096  # pixels of an image that a network is made for; a file that claims more would take all memory


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

    @property
    def remedy(self) -> str:
        """What to type where a network is damaged."""
        return f"train again: cfexplain train --from {self.folder}/config.yaml"

    @property
    def bits(self) -> int | None:
        """That count in a picture of 16, as in the images that were learned from."""
        return getattr(self.config.dataset, "bits", None)

    def load_splits(self) -> Splits:
        """With what each image was for in the training."""
        try:
            return self.config.load_splits()
        except DataError as error:
            raise DataError(_for_opened_run(str(error))) from error

    def saved_explanations(self, splits: Splits) -> Explanations:
        """Of the explain run. DataError where they are damaged, or of other test images than there are by now."""
        saved = SavedInspections(folder=self.explained, remedy=f"explain again: cfexplain explain run={self.folder}")
        explanations, noted = saved.explanations(), saved.index["images_digest"]
        # Exposure images, where there are no test anomalies, are drawn anew.
        if splits.has_test_anomalies and len(noted) == DIGEST_LENGTH and noted != test_anomalies(splits).digest:
            raise DataError(f"the test images have changed since {saved.folder} explained them; {saved.remedy}")
        return explanations

    def image_shape(self) -> ImageShape:
        return self._generator()[1]

    def load_detector(self, device: torch.device) -> Detector:
        return load_detector(self.config, self.folder / "checkpoints" / "detector.pt", self.remedy, device)

    def load_model(self, device: torch.device) -> FittedModel:
        detector = self.load_detector(device)
        (values, shape), fit, spec = self._generator(), self.config.fit, self.config.generator
        networks = {"generator": spec.build_generator(shape, fit.num_alpha_bins, fit.num_concepts)}
        if spec.is_trained:
            networks["concept_classifier"] = build_concept_classifier(spec, fit, shape)
        for name, network in networks.items():
            checkpoint.restore(network, values, name, self._generator_file, self.remedy)
            network.to(device).eval().requires_grad_(False)
        if not spec.is_trained:
            return untrained_model(networks["generator"], fit, detector)
        look_with(detector, networks["generator"])
        return FittedModel(
            detector=detector, **networks, num_concepts=fit.num_concepts, num_alpha_bins=fit.num_alpha_bins
        )

    @property
    def _generator_file(self) -> Path:
        return self.folder / "checkpoints" / "generator.pt"

    def _generator(self) -> tuple[dict[str, Any], ImageShape]:
        """The content of its file, and the shape of the images in it."""
        values = checkpoint.load(self._generator_file, self.remedy, digest_of(self._generator_file))
        return values, _image_shape(values, self._generator_file, self.remedy)


def open_run(
    run: str, output_root: str, cache_dir: str, allow_custom_code: bool, commands: tuple[str, ...] = ("train",),
    roots: Mapping[str, str | None] | None = None,
) -> TrainedRun:
    """Find a run and read its config; torch stays unloaded.

    commands: whose runs are taken, best first. roots: where the images of `dataset` and `exposure` lie now.
    """
    folder, explained = find_run(run, Path(output_root), commands), None
    if read_record(folder)["command"] == "explain":
        parents = parent_runs(folder)
        if not parents:
            raise DataError(f"{folder} ended before it noted what it explains; again: cfexplain explain run=...")
        explained, folder = folder, parents[0]
        if not (folder / "run.json").is_file():
            raise DataError(f"{explained} explains {folder}, which is gone; train one: cfexplain train")
    if not (folder / "checkpoints" / "generator.pt").is_file():
        raise DataError(
            f"{folder} has no trained generator (status: {record_of(folder).get('status')}); finish it: cfexplain "
            f"train --from {folder / 'config.yaml'} stage=all run_dir={folder}"
        )
    values = configs.read(folder / "config.yaml")
    values["allow_custom_code"] = allow_custom_code  # what the run was allowed allows no other command
    values["stage"] = "all"  # it has both, whichever it made last
    if isinstance(values.get("dataset"), dict):
        values["dataset"]["cache_dir"] = cache_dir  # the run may come from another machine
    for group, root in (roots or {}).items():
        if root is None:
            continue
        if "root" not in (values.get(group) or {}):
            raise ConfigError(f"{ROOT_KEYS[group]}={root}: the {group} of {folder} has no folder; leave it out")
        values[group]["root"] = root
    values["run_dir"] = str(folder)  # whose split.csv says what each image is for
    values["tensorboard"] = False  # a finished run needs no such package, and may be older than that value
    try:
        config = configs.build_root(with_missing_values(values), TrainConfig, allow_custom_code)
    except ConfigError as error:
        if not any(words in str(error) for words in ("unknown key", "is not set")):
            raise
        raise DataError(_of_another_version(folder, str(error))) from error
    return TrainedRun(folder=folder, explained=explained, config=config)


def _for_opened_run(message: str) -> str:
    """Advice for a training, as explain and evaluate take it."""
    for group, key in ROOT_KEYS.items():
        message = message.replace(f"{group}.root", key)
    return re.sub(r",? or set \w+\.download=true \(.*?\)", "", message)


def _of_another_version(folder: Path, message: str) -> str:
    """What to do where today's program wants other keys than a run has, or other values."""
    version = (record_of(folder).get("versions") or {}).get("cfexplain")
    made_by = "" if version in (None, VERSION) else f", made by cfexplain {version} and read by {VERSION}"
    return f"{folder}/config.yaml{made_by}: {message.split(': give it as')[0]}. Correct it in that file"


def load_detector(config: TrainConfig, path: Path, remedy: str, device: torch.device) -> Detector:
    values = checkpoint.load(path, remedy, digest_of(path))
    spec, image_shape = config.detector.with_files_in(path.parent), _image_shape(values, path, remedy)
    detector = build_detector(spec, config.encoder.without_weights, image_shape, config.seed)
    checkpoint.restore(detector, values, "detector", path, remedy)
    detector.to(device).eval().requires_grad_(False)
    if isinstance(spec, External):
        check_unchanged(detector, image_shape, path, remedy)
    return detector


def save_detector(detector: Detector, image_shape: ImageShape, path: Path) -> str:
    """returns: the file's SHA-256."""
    return checkpoint.save(path, {"image_shape": list(image_shape), "detector": detector.state_dict()})


def digest_of(path: Path) -> str | None:
    """Of <run>/checkpoints/<name>, as the run noted it when it wrote the file; None where it did not."""
    return record_of(path.parent.parent).get("weights", {}).get(path.name)


def _image_shape(values: dict, path: Path, remedy: str) -> ImageShape:
    shape = values.get("image_shape")
    is_shape = isinstance(shape, list) and len(shape) == 3 and all(type(side) is int for side in shape)
    if not (is_shape and 1 <= shape[0] <= 4 and all(1 <= side <= MAX_SIDE for side in shape[1:])):
        raise DataError(f"{path} is no checkpoint of a detector or generator; {remedy}")
    return tuple(shape)  # type: ignore[return-value]
