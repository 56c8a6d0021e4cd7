"""cfexplain train: data -> detector -> generator of counterfactuals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cfexplain.commands import rank
from cfexplain.commands.base import Command, Job
from cfexplain.commands.stages import num_parameters, roles, train_run
from cfexplain.commands.train_config import TrainConfig
from cfexplain.detectors.external.calibration import calibrate_external
from cfexplain.engine.distributed import ALONE, torchrun_rank
from cfexplain.engine.launch import launch
from cfexplain.engine.runtime import device_name, start_torch
from cfexplain.files import read_json, SCHEMA_VERSION
from cfexplain.runs.folder import lock_descriptor


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
            return rank.train_as_rank(config, place, job)
        if config.runtime.processes > 1:
            return _launched(job, config.runtime.processes)
        return train_run(config, job, start_torch(config.runtime, config.device), ALONE)

    def plan(self) -> Iterator[str]:
        """Loads the data and builds the networks."""
        config = self.config
        device = start_torch(config.runtime, config.device)
        splits = config.load_splits()
        yield from roles(splits)
        for name, count in num_parameters(config, splits).items():
            yield f"{name}: {count:,} parameters"
        if not config.detector.is_trained:
            yield calibrate_external(config.detector, config.encoder, splits, config.seed, device)[1]
        yield f"device: {device_name(device)}"


COMMAND = Train


def _launched(job: Job, num_ranks: int) -> dict[str, float | str]:
    """What rank 0 of so many new processes has measured."""
    folder = job.folder.path
    try:
        launch(rank.main, num_ranks, folder, lock_descriptor(folder))
    finally:
        job.folder.record.update(read_json(folder / "run.json"))  # rank 0 has written to it
    metrics = read_json(folder / "metrics.json")
    assert metrics.pop("schema_version") == SCHEMA_VERSION, metrics
    return metrics
