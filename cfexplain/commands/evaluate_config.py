"""conf/evaluate.yaml, typed: which runs are measured, and by what."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cfexplain.commands.reference_config import ReferenceConfig
from cfexplain.commands.trained_run import open_run, TrainedRun
from cfexplain.engine.runtime import Device, Runtime
from cfexplain.errors import ConfigError, DataError
from cfexplain.metrics.base import MetricSpec
from cfexplain.runs.lookup import record_of

HEADLINES = (
    "cf_auroc", "detector_auroc", "validity", "fid_normalized", "concept_accuracy_fresh", "oracle_normal_rate",
    "class_normal_rate",
)
SIDES = string.ascii_lowercase  # names of compared runs


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ReferenceConfig):
    """conf/evaluate.yaml, typed. How it judges is asked by a comparison alone."""

    run: str | None
    runs: list[str] | None
    compare: list[str] | None
    images: list[str] | None
    runtime: Runtime
    metric: dict[str, MetricSpec]
    seed: int | None
    num_grid_images: int
    num_compared_images: int
    device: Device
    output_root: str
    run_dir: str | None
    dry_run: bool
    json: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum([self.run is not None, bool(self.runs), bool(self.compare)]) != 1:
            raise ConfigError(
                "give one of run=<folder of a run, or latest>; for a table, runs=<folder of a sweep>; for trained runs "
                "side by side, compare=[runA,runB]"
            )
        if self.compare:
            check_compare(self.compare)
        elif self.images is not None:
            raise ConfigError(
                "images= goes with compare=[runA,runB]; metrics need the test set, and one run explains images of your "
                "own with cfexplain explain run=... images=..."
            )
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and {2**32 - 1}, got {self.seed}")
        for name in ("num_grid_images", "num_compared_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.metric:
            raise ValueError("metric must name at least one metric, like metric=[auroc]")

    def open(self) -> TrainedRun:
        assert self.run is not None, self.runs
        record = record_of(Path(self.run))
        if record.get("command") == "explain" and record.get("status") != "done":
            raise DataError(
                f"{self.run} is an explain run that is not done (status: {record.get('status')}); run the same "
                f"cfexplain explain again with run_dir={self.run}"
            )
        return open_run(self.run, self.output_root, self.cache_dir, self.allow_custom_code, ("explain", "train"))


def check_compare(compare: Sequence[str]) -> None:
    """ConfigError for what can be seen before anything is opened."""
    if len(compare) < 2:
        raise ConfigError(f"compare needs two runs or more, like compare=[runA,runB], and {compare[0]} is one")
    if len(compare) > len(SIDES):
        raise ConfigError(f"compare takes at most {len(SIDES)} runs, got {len(compare)}")
