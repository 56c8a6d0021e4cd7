"""conf/explain.yaml and conf/evaluate.yaml, typed: which runs are looked at, and what counterfactuals are held against.

The second detector is of the run's own kind, from another seed: the run's generator never saw it.
"""

from __future__ import annotations

import hashlib
import logging
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cfexplain.checks import check_at_least, check_seed, check_share
from cfexplain.commands.base import CommandConfig
from cfexplain.commands.trained_run import load_detector, open_run, save_detector, TrainedRun
from cfexplain.detectors.base import Detector
from cfexplain.detectors.fitting import fit_detector
from cfexplain.engine.runtime import autocast_dtype
from cfexplain.errors import ConfigError, DataError
from cfexplain.explanation.explain import FittedModel
from cfexplain.inspection.reference import build_reference, NONE, Reference, REFIT
from cfexplain.inspection.shards import as_shard, Shard, weights_digest
from cfexplain.lazy import torch
from cfexplain.metrics.base import MetricSpec
from cfexplain.metrics.baselines import Baselines, SimplerWay
from cfexplain.metrics.classifiers import feature_space, NetworkRecipe
from cfexplain.metrics.survival import Alterations
from cfexplain.metrics.transfer import SEED_OFFSET
from cfexplain.runs.lookup import record_of
from cfexplain.types import Splits, Tick

HEADLINES = (
    "cf_auroc", "detector_auroc", "validity", "fid_normalized", "concept_accuracy_fresh", "oracle_normal_rate",
    "class_normal_rate",
)
RUN_NAMES = string.ascii_lowercase  # names of compared runs

log = logging.getLogger("cfexplain")


@dataclass(frozen=True, kw_only=True)
class JudgingConfig(CommandConfig):
    """conf/judging.yaml, typed: a part of the configs of both commands.

    false_alarm_rate: share of normal images that may count as anomalous; sets the threshold.
    second_detector:  refit (of the run's kind, from another seed), none, or the folder of another train run.
    alterations:      what a counterfactual should survive.
    features:         of the space in which distances to normal images are taken.
    images:           one's own, in the place of the test anomalies.
    data_root, exposure_root: where the images of the runs lie now, if they have moved.
    """

    false_alarm_rate: float
    second_detector: str
    alterations: Alterations
    features: NetworkRecipe
    images: list[str] | None
    data_root: str | None
    exposure_root: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "false_alarm_rate")

    def open_run(self, run: str, commands: tuple[str, ...] = ("train",)) -> TrainedRun:
        roots = {"dataset": self.data_root, "exposure": self.exposure_root}
        return open_run(run, self.output_root, self.cache_dir, self.allow_custom_code, commands, roots)

    def second_detector_digest(self) -> str | None:
        """Of another run's, which may have been trained again under its name."""
        is_run = self.second_detector not in (NONE, REFIT)
        return weights_digest(self.open_run(self.second_detector).folder) if is_run else None

    def reference(
        self, trained: TrainedRun, model: FittedModel, splits: Splits, device: torch.device,
        report: Callable[[Tick], None],
    ) -> Reference:
        """Of one trained run; report: of the second detector's training."""
        space = feature_space(splits, self.features, Path(self.cache_dir), device)
        second = self._second_detector(trained, splits, device, report)
        return build_reference(
            model.detector, splits, space, second, self.false_alarm_rate, device, self.alterations
        )

    def _second_detector(
        self, trained: TrainedRun, splits: Splits, device: torch.device, report: Callable[[Tick], None]
    ) -> Detector | None:
        choice = self.second_detector
        if choice == NONE:
            return None
        if choice == REFIT:
            return refitted_detector(trained, splits, device, Path(self.cache_dir), report)
        other = self.open_run(choice)
        if other.image_shape() != trained.image_shape():
            shapes = " and ".join("x".join(map(str, run.image_shape())) for run in (trained, other))
            raise ConfigError(f"second_detector={choice}: that run takes images of another shape ({shapes})")
        return other.load_detector(device)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(JudgingConfig):
    """conf/explain.yaml."""

    run: str
    mask: str | None
    box: list[float] | None
    shard: str | None
    merge: list[str] | None
    batch_size: int
    num_film_strips: int
    num_cards: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, batch_size=1, num_film_strips=0, num_cards=0)
        if self.images == []:
            raise ValueError("images must name at least one file, or be null for the test anomalies")
        if (self.mask or self.box) and not self.images:
            raise ConfigError("mask and box confine the edits of your own images: give images=part.png too")
        if self.mask and self.box:
            raise ConfigError("mask and box: give one of them")
        if self.box is not None and not (
            len(self.box) == 4 and 0 <= self.box[0] < self.box[2] <= 1 and 0 <= self.box[1] < self.box[3] <= 1
        ):
            raise ValueError(f"box must be [left, top, right, bottom], shares of width and height, got {self.box}")
        if self.merge == []:
            raise ValueError("merge must name the shards' folders, or be null")
        _ = self.part
        if self.merge and (self.shard is not None or self.images):
            raise ConfigError("merge joins shards that are there, with their images: leave shard and images out")

    @property
    def part(self) -> Shard | None:
        return None if self.shard is None else as_shard(self.shard)

    def open(self) -> TrainedRun:
        return self.open_run(self.run)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(JudgingConfig):
    """conf/evaluate.yaml. How it judges is asked by a comparison alone."""

    run: str | None
    runs: list[str] | None
    compare: list[str] | None
    metric: dict[str, MetricSpec]
    sheet: bool
    num_sheet_pairs: int
    sheet_against: list[SimplerWay]
    sheet_answers: list[str] | None
    seed: int | None
    num_compared_images: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum([self.run is not None, bool(self.runs), bool(self.compare)]) != 1:
            raise ConfigError(
                "give one of run=<folder of a run, or latest>; for a table, runs=<folder of a sweep>; for trained runs "
                "side by side, compare=[runA,runB]"
            )
        if self.compare:
            if len(self.compare) < 2:
                raise ConfigError(
                    f"compare needs two runs or more, like compare=[runA,runB], and {self.compare[0]} is one"
                )
            if len(self.compare) > len(RUN_NAMES):
                raise ConfigError(f"compare takes at most {len(RUN_NAMES)} runs, got {len(self.compare)}")
        elif self.images is not None:
            raise ConfigError(
                "images= goes with compare=[runA,runB]; metrics need the test set, and one run explains images of your "
                "own with cfexplain explain run=... images=..."
            )
        check_seed(self)
        check_at_least(self, num_compared_images=1, num_sheet_pairs=2)
        if not self.metric:
            raise ValueError("metric must name at least one metric, like metric=[auroc]")
        self._check_sheet()

    def _check_sheet(self) -> None:
        if self.sheet and self.sheet_answers:
            raise ConfigError("sheet=true makes a sheet and sheet_answers reads what was answered: give one of them")
        if self.sheet_answers == []:
            raise ValueError("sheet_answers must name at least one file, or be null")
        if self.sheet_answers and (self.run is None or len(set(self.sheet_answers)) < len(self.sheet_answers)):
            raise ConfigError("sheet_answers names each reader's file once, and run=<the sheet's folder> the sheet")
        if self.sheet and self.run is None:
            raise ConfigError("sheet=true is about one run: give run=<folder of a run, or latest>")
        if self.sheet and self.baselines is None:
            raise ConfigError("sheet=true takes simpler ways from metric.baselines: add baselines to metric")
        if not self.sheet_against or len(set(self.sheet_against)) < len(self.sheet_against):
            raise ValueError(f"sheet_against must name one or more of {', '.join(SimplerWay)}, each once")

    @property
    def baselines(self) -> Baselines | None:
        """The values of simpler ways to make a counterfactual."""
        return next((spec for spec in self.metric.values() if isinstance(spec, Baselines)), None)

    def open(self) -> TrainedRun:
        assert self.run is not None, self.runs
        record = record_of(Path(self.run).expanduser())
        if record.get("command") == "explain" and record.get("status") != "done":
            raise DataError(
                f"{self.run} is an explain run that is not done (status: {record.get('status')}); run the same "
                f"cfexplain explain again with run_dir={self.run}"
            )
        return self.open_run(self.run, ("explain", "train"))


def refitted_detector(
    trained: TrainedRun, splits: Splits, device: torch.device, cache_dir: Path, report: Callable[[Tick], None]
) -> Detector:
    """Fitted once for a trained detector, then taken from the cache; a damaged file there is made again."""
    config = replace(trained.config, detector=trained.config.detector.second)
    weights = (trained.folder / "checkpoints" / "detector.pt").read_bytes()  # they follow from its data and config
    path = cache_dir / "judges" / f"second-detector-{hashlib.sha256(weights).hexdigest()[:16]}.pt"
    if path.exists():
        try:
            return load_detector(config, path, "delete it", device)
        except DataError as error:
            log.warning("%s: fitting the second detector again", error)
    seed = config.seed + SEED_OFFSET
    dtype = autocast_dtype(config.runtime, device)
    detector = fit_detector(config.detector, config.encoder, splits, seed, device, report, dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_detector(detector, splits.image_shape, path)
    except OSError as error:  # a cache that one may only read
        log.warning("the second detector is not kept for the next run: %s", error)
    return detector
