"""One command line with a config, from its words to its runs: one, or those of a sweep."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cfexplain import command_line, compose, config as configs
from cfexplain.command_line import CommandLine, quoted
from cfexplain.commands.base import Command, command_named
from cfexplain.engine.distributed import torchrun_rank
from cfexplain.engine.runtime import check_device, Device, too_few_gpus
from cfexplain.engine.stopping import stop_on_signals
from cfexplain.errors import ConfigError, INTERRUPTED
from cfexplain.runs.folder import claim_run_folder, make_run_folder, safe_name, stamped_name
from cfexplain.runs.lookup import record_of
from cfexplain.runs.sweep import (
    is_done, MAY_DIFFER, note_sweep, say_done_already, share_gpus, stops_passed_on, visible_gpus,
)


def complete(command: str, argv: list[str]) -> int:
    """Answer Hydra's completion script with the words of a command's config."""
    compose.register_presets()
    compose.complete(_task, command, argv)
    return 0


def dispatch(command: str, argv: list[str]) -> int:
    """Exit code of a command that has a config."""
    line = command_line.parse(command, argv)
    flags = line.flags
    if flags.help or flags.hydra_help:
        compose.register_presets(line)
        compose.register_help(line)
        return compose.call_hydra(_task, line, [])
    if command == "train" and f"{command_line.EXPERIMENT}=help" in line.overrides:
        print("\n".join(line.options_of(command_line.EXPERIMENT)))
        return 0
    if flags.multirun and (flags.cfg or flags.info):
        raise ConfigError("-m runs a sweep and --cfg or --info shows a config: give one of them")
    found = compose.compositions(line)
    cfg = next(found)
    if flags.cfg or flags.info:
        if flags.resolve:
            configs.plain(cfg)  # else Hydra would find what cannot be resolved, and print a traceback
        return ConfigError.exit_code if compose.call_hydra(_task, line, []) else 0
    first, place = _built(command, cfg), torchrun_rank()
    for each in chain([first], (_built(command, other) for other in found)):  # all, for their checks
        _check_processes(command, each.config, flags.multirun)
    if not flags.multirun:
        check_device(first.config.device)
    if command == "evaluate" and first.config.runs:
        from cfexplain.commands.summary import show_table

        if flags.multirun:
            raise ConfigError("runs= makes one table of many runs: leave -m out")
        return show_table(first.config)
    if place is not None and place.rank > 0:
        from cfexplain.commands.train import follow_torchrun  # here, as help and mistakes need none of it

        with stop_on_signals():
            return 0 if first.config.dry_run else follow_torchrun(first.config, place)
    if first.config.dry_run:
        if flags.multirun:
            raise ConfigError("dry_run=true checks one run: leave -m out")
        return first.dry_run(_planned(command, first))
    with stop_on_signals():
        if flags.multirun:
            return _sweep(line, first.config)
        return _run_once(line, cfg, first)


def _check_processes(command: str, config: Any, is_sweep: bool) -> None:
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


def _run_once(line: CommandLine, cfg: DictConfig, command: Command) -> int:
    planned = _planned(line.command, command)
    folder = make_run_folder(planned.parent) if command.config.run_dir is None else claim_run_folder(planned)
    _check_same_run(folder, cfg)
    before = record_of(folder)
    compose.call_hydra(_task, line, [f"hydra.run.dir={quoted(str(folder))}"])
    could_begin = record_of(folder) != before  # else the code in it is that of an earlier attempt
    return _exit_code(folder) if could_begin else 1


def _sweep(line: CommandLine, config: Any) -> int:
    if config.run_dir is None:
        folder = make_run_folder(Path(config.output_root) / line.command, prefix="sweep-")
    else:
        folder = claim_run_folder(Path(config.run_dir))
    note_sweep(folder, line.command, line.typed)
    places = [f"hydra.sweep.dir={quoted(str(folder))}", "hydra.sweep.subdir=${hydra.job.num}"]
    try:
        with stops_passed_on(folder) if "hydra/launcher=joblib" in line.typed else nullcontext():
            code = compose.call_hydra(_task, replace(line, overrides=compose.as_sweep(line)), places)
    except KeyboardInterrupt:  # no further job starts; those that ended have their numbers
        code = INTERRUPTED
    jobs = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    code = max([code, *map(_exit_code, jobs)])
    stream = sys.stderr if config.json else sys.stdout
    from cfexplain.commands.summary import summarize_sweep

    summarize_sweep(folder, stream)
    if code:
        words = [word for word in line.typed if not word.startswith("run_dir=")]
        again = shlex.join(["cfexplain", line.command, *line.options, *words, f"run_dir={folder}"])
        print(f"to run again what is not done: {again}", file=stream, flush=True)
    return code


def _task(cfg: DictConfig, source: Path | None) -> float:
    """One job, possibly in a process of its own on another machine. Its exit code goes into run.json.

    source: the saved config given by --from, or None.
    """
    from cfexplain.commands.job import run_job

    job = compose.current_job()
    folder = _relative(job.folder)
    given = [] if source is None else ["--from", str(_relative(source))]
    argv = ["cfexplain", job.command, *given, *job.overrides]
    saved = configs.without_run_dir(cfg)
    if job.is_sweep:
        _check_same_run(folder, saved)
        if is_done(folder, configs.plain(saved)):
            return say_done_already(folder, command_named(job.command).headlines[0], cfg.json)
        if "joblib" in job.launcher:
            share_gpus(folder.parent, job.number)
    return run_job(job.command, lambda: _built(job.command, cfg), configs.to_yaml(saved), folder, argv)


def _built(name: str, cfg: DictConfig) -> Command:
    command = command_named(name)
    return command.of(configs.build_root(cfg, command.config_type))


def _planned(name: str, command: Command) -> Path:
    """The folder of a run; the stamp is drawn when it is made."""
    if command.config.run_dir is not None:
        return Path(command.config.run_dir)
    return Path(command.config.output_root) / name / safe_name(command.slug) / stamped_name()


def _check_same_run(folder: Path, cfg: DictConfig) -> None:
    """run_dir continues a run: the config in it must be this one."""
    if not (folder / "config.yaml").exists():
        return
    new = configs.plain(cfg)
    key = configs.first_difference(configs.read(folder / "config.yaml"), new, ignore=(*MAY_DIFFER, "stage"))
    if key is not None:
        raise ConfigError(f"run_dir={folder} holds a run with another {key}; give another run_dir, or the same {key}")


def _relative(folder: Path) -> Path:
    """As the user would type it, where it lies below the working directory."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _exit_code(folder: Path) -> int:
    """As the job itself wrote it; 1 where it died before it could."""
    code = record_of(folder).get("exit_code")
    return 1 if code is None else int(code)
