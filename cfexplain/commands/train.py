"""cfexplain train: data -> detector -> generator of counterfactuals, in one process or as one rank of several.

Rank 0 does what a single process does, with its part of each batch. The others compute alongside and write nothing.
They are started by engine/launch.py or torchrun.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from cfexplain import config as configs
from cfexplain.commands.base import Command, Job
from cfexplain.commands.job import reason, warnings_as_notes
from cfexplain.commands.stages import num_parameters, ready_detector, roles, train_other_rank, train_run
from cfexplain.commands.train_config import TrainConfig
from cfexplain.engine.distributed import ALONE, joined, RankOfRun, torchrun_rank
from cfexplain.engine.launch import launch, run_rank
from cfexplain.engine.runtime import start_torch
from cfexplain.errors import CfexplainError, Interrupted
from cfexplain.files import read_json, SCHEMA_VERSION
from cfexplain.lazy import torch
from cfexplain.reporting.console import complain, peak_memory_mb, Reporter
from cfexplain.runs.folder import lock_descriptor, RunFolder


class Train(Command):
    """Data, detector, generator of counterfactuals."""

    config_type = TrainConfig
    headlines = ("detector_auroc",)
    config: TrainConfig

    @property
    def slug(self) -> str:
        return self.config.slug

    def next_command(self, folder: Path, metrics: dict[str, float | str]) -> str:
        if (folder / "checkpoints" / "generator.pt").exists():
            return f"cfexplain explain run={folder}"
        return f"the same command with stage=generator run_dir={folder}"

    def run(self, job: Job) -> dict[str, float | str]:
        config = self.config
        if (place := torchrun_rank()) is not None:
            return train_as_rank(config, place, job)
        if config.runtime.processes > 1:
            return _launched(job, config.runtime.processes)
        return train_run(config, job, start_torch(config.runtime, config.device), ALONE)

    def plan(self, device: torch.device) -> Iterator[str]:
        """Loads the data and builds the networks."""
        config = self.config
        splits = config.load_splits()
        yield from roles(splits)
        for name, count in num_parameters(config, splits).items():
            yield f"{name}: {count:,} parameters"
        if not config.detector.is_trained:
            yield ready_detector(config, splits, device)[1]


COMMAND = Train


def _launched(job: Job, num_ranks: int) -> dict[str, float | str]:
    """What rank 0 of so many new processes has measured."""
    folder = job.folder.path
    try:
        launch(main, num_ranks, folder, lock_descriptor(folder))
    finally:
        job.folder.record.update(read_json(folder / "run.json"))  # rank 0 has written to it
    metrics = read_json(folder / "metrics.json")
    assert metrics.pop("schema_version") == SCHEMA_VERSION, metrics
    return metrics


def main() -> None:
    """One rank; `launch` calls it in a new process."""
    run_rank(_train, reason)


def follow_torchrun(config: TrainConfig, place: RankOfRun) -> int:
    """A rank other than 0 under torchrun: its exit code. What all ranks find wrong, rank 0 says."""
    try:
        train_as_rank(config, place, None)
        return 0
    except CfexplainError as error:
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    except Exception as error:  # noqa: BLE001: the boundary
        traceback.print_exc()
        complain(f"rank {place.rank}: {type(error).__name__}: {error}")
        return 1


def train_as_rank(config: TrainConfig, place: RankOfRun, job: Job | None) -> dict[str, float | str]:
    """As one of several processes. job: of rank 0, the only one that writes."""
    device = start_torch(config.runtime, config.device, place.local_rank, place.local_size)
    with joined(place.rank, place.size, "env://", device) as ranks:
        if job is not None:
            return train_run(config, job, device, ranks)
        train_other_rank(config, device, ranks)
        return {}


def _train(folder: Path) -> None:
    values = configs.read(folder / "config.yaml") | {"run_dir": str(folder)}
    config, place = configs.build_root(values, TrainConfig), torchrun_rank()
    with _job(config, folder) if place.rank == 0 else nullcontext() as job:
        train_as_rank(config, place, job)


@contextmanager
def _job(config: TrainConfig, folder: Path) -> Iterator[Job]:
    """The job that the starter began, carried on in this process; it closes it afterwards."""
    logging.raiseExceptions = False
    logging.basicConfig(  # as conf/hydra/job_logging/to_file.yaml has it
        filename=folder / "cfexplain.log", format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s",
        level=logging.INFO, encoding="utf-8", errors="backslashreplace",
    )
    run = RunFolder(folder, read_json(folder / "run.json"))
    reporter = Reporter(sys.stderr if config.json else sys.stdout, folder / "history.jsonl")
    job = Job(folder=run, reporter=reporter)
    try:
        with warnings_as_notes(job):
            yield job
    finally:
        reporter.end_stage()
        with suppress(OSError):  # a full disk has its own reason
            run.update(peak_memory_mb=round(peak_memory_mb(), 1))
