"""Training in several processes: which one of them this is, and whether they may be asked for.

`runtime.processes=N` starts N ranks (commands/ranks/watched.py). Under torchrun this process is one already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cfexplain.commands.sweep import visible_gpus
from cfexplain.engine.distributed import joined, Ranks
from cfexplain.engine.runtime import Device, Runtime, start_torch, too_few_gpus
from cfexplain.errors import ConfigError
from cfexplain.lazy import torch


@dataclass(frozen=True, kw_only=True)
class RankOfRun:
    """A process among those that train together; local: among those on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    init_method: str


def torchrun_rank(environment: Mapping[str, str] = os.environ) -> RankOfRun | None:
    """This process's, where torchrun started it as one of several."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(environment.get(name) for name in names) or int(environment["WORLD_SIZE"]) == 1:
        return None
    return RankOfRun(
        rank=int(environment["RANK"]), size=int(environment["WORLD_SIZE"]), local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", 1)), init_method="env://",
    )


def check_launch(command: str, config: Any, is_sweep: bool) -> None:
    """ConfigError where several processes are asked for what one does, or in two ways at once."""
    place, asked = torchrun_rank(), config.runtime.processes
    if command != "train" and (asked > 1 or place is not None):
        instead = "; divide the images instead: shard=1/2, shard=2/2" if command == "explain" else ""
        raise ConfigError(f"{command} is the work of one process: leave runtime.processes and torchrun out{instead}")
    if place is None:
        num_gpus = len(visible_gpus(os.environ))
        if config.device is Device.cuda and 0 < num_gpus < asked:
            raise ConfigError(too_few_gpus(asked, num_gpus))
        return
    if is_sweep:
        raise ConfigError("-m under torchrun: leave torchrun out and add runtime.processes=<number>")
    if asked not in (1, place.size):
        raise ConfigError(f"torchrun started {place.size} processes: leave runtime.processes={asked} out")
    config.check_processes(place.size)


@contextmanager
def joined_at(place: RankOfRun, runtime: Runtime, device: Device) -> Iterator[tuple[torch.device, Ranks]]:
    """Torch and its device set up for this rank, and the others met."""
    chosen = start_torch(runtime, device, place.local_rank, place.local_size)
    with joined(place.rank, place.size, place.init_method, chosen) as ranks:
        yield chosen, ranks
