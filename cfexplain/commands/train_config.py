"""conf/train.yaml, typed: what a training is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cfexplain.checks import check_seed
from cfexplain.commands.base import CommandConfig
from cfexplain.data.datasets.base import DatasetSpec
from cfexplain.data.exposures.base import ExposureSpec
from cfexplain.data.recorded_split import read_split
from cfexplain.detectors.base import DetectorSpec
from cfexplain.encoders.base import EncoderSpec
from cfexplain.errors import ConfigError
from cfexplain.explanation.objective import GeneratorTraining
from cfexplain.generators.base import GeneratorSpec
from cfexplain.reporting.tensorboard import check_tensorboard
from cfexplain.types import Splits


class Stage(Enum):
    all = "all"
    detector = "detector"
    generator = "generator"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommandConfig):
    """conf/train.yaml, typed."""

    dataset: DatasetSpec
    exposure: ExposureSpec
    detector: DetectorSpec
    encoder: EncoderSpec
    generator: GeneratorSpec
    fit: GeneratorTraining
    experiment: str | None
    reported: dict[str, float]
    seed: int
    stage: Stage
    tensorboard: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self)
        if self.stage is Stage.generator and self.run_dir is None:
            raise ConfigError("stage=generator continues a run that holds a detector: add run_dir=<its folder>")
        if self.tensorboard:
            check_tensorboard()
        self.detector.check_allowed(self.allow_custom_code)
        if not self.exposure.provides_images:
            self._check_exposure()
        self.check_processes(self.runtime.processes)

    @property
    def slug(self) -> str:
        return f"{self.dataset.slug}-{self.detector.name}"

    def load_splits(self) -> Splits:
        """Those of split.csv where run_dir is a run that has learned from them; else they are drawn."""
        folder = None if self.run_dir is None else Path(self.run_dir)
        has_learned = folder is not None and any((folder / "checkpoints").glob("*.pt"))
        recorded = read_split(folder / "split.csv") if has_learned else None
        if recorded is None:
            return self.dataset.load(self.exposure)
        splits = self.dataset.load_again(self.exposure, recorded)
        recorded.check_exposure(splits)
        return splits

    @property
    def plays_game(self) -> bool:
        """Whether a generator is trained."""
        return self.stage is not Stage.detector and self.generator.is_trained

    def check_processes(self, number: int) -> None:
        """ConfigError where a batch is not divisible; a rank's part of the generator's has all four kinds of image."""
        batches = []
        if self.stage is not Stage.generator and self.detector.is_trained:
            batches.append(("detector.batch_size", self.detector.batch_size, number))
        if self.plays_game:
            batches.append(("fit.batch_size", self.fit.batch_size, 4 * number))
        for key, size, divisor in batches if number > 1 else []:
            if size % divisor:
                raise ConfigError(f"{key}={size} cannot be shared by {number} processes: take a multiple of {divisor}")

    def _check_exposure(self) -> None:
        if self.detector.needs_exposure:
            raise ConfigError(
                f"detector={self.detector.name} learns from exposure images and exposure=none gives none: "
                "name another exposure=..., or take detector=dsvdd stage=detector"
            )
        if self.plays_game:
            raise ConfigError(
                "the generator learns from exposure images and exposure=none gives none: name another exposure=..., "
                "or train the detector alone with stage=detector"
            )
