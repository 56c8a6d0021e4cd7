"""argv -> command -> Hydra -> run -> exit code. Nothing here loads torch; Hydra loads only once a command is known."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cfexplain import command_line, compose, config as configs
from cfexplain.command_line import CommandLine
from cfexplain.commands.base import Command, command_named
from cfexplain.commands.ranks.place import check_launch, torchrun_place
from cfexplain.commands.sweep import is_done, MAY_DIFFER, note_sweep, say_done_already, share_gpus, stops_passed_on
from cfexplain.commands.sweep_arguments import quoted
from cfexplain.engine.runtime import check_device
from cfexplain.engine.stopping import stop_on_signals
from cfexplain.errors import CfexplainError, ConfigError, did_you_mean
from cfexplain.reporting.console import complain, forget_reader
from cfexplain.runs.folder import claim_run_folder, make_run_folder, safe_name, stamped_name
from cfexplain.version import VERSION

COMMANDS = {
    "train": "train a detector and the generator of its counterfactuals",
    "explain": "write counterfactuals of anomalies: pictures, samples.csv, report.html",
    "evaluate": "measure a run: metrics.json, a table, report.html",
    "doctor": "check this machine: versions, device, folders, data, a ten-step run",
}
WITHOUT_CONFIG = ("doctor",)  # commands that Hydra has no part in
USAGE = "\n".join([
    "cfexplain: what would this anomaly look like if it were normal?",
    "",
    "usage: cfexplain <command> [key=value ...] [-m] [--json]",
    "",
    *(f"  {name:10}{text}" for name, text in COMMANDS.items()),
    "",
    "  cfexplain train                 about four minutes on two cores, nothing to download",
    "  cfexplain explain run=latest",
    "  cfexplain evaluate run=latest",
    "",
    "cfexplain <command> --help shows its groups and examples. Tab completion: eval \"$(cfexplain -sc install=bash)\"",
])
INTERRUPTED = 75


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 usage or config, 3 data or run missing or damaged, 75 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(argv)
        sys.stdout.flush()
        return code
    except CfexplainError as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:  # `cfexplain --help | head`: the reader has left, which is no failure
        forget_reader()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


def _main(argv: list[str]) -> int:
    if not argv:
        print(USAGE, file=sys.stderr)
        return 2
    if argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if "--version" in argv:
        print(f"cfexplain {VERSION}")
        return 0
    if argv[0] in ("-sc", "--shell-completion", "--shell_completion"):
        return _complete(argv)
    if argv[0] not in COMMANDS:
        raise ConfigError(f"no command '{argv[0]}'.{did_you_mean(argv[0], COMMANDS)} Commands: {', '.join(COMMANDS)}")
    if argv[0] in WITHOUT_CONFIG:
        return importlib.import_module(f"cfexplain.commands.{argv[0]}").main(argv[1:])
    return _dispatch(argv[0], argv[1:])


def _dispatch(command: str, argv: list[str]) -> int:
    line = command_line.parse(command, argv)
    flags = line.flags
    if flags.help or flags.hydra_help:
        compose.register_presets(line)
        compose.register_help(line)
        return _call_hydra(line, [])
    if command == "train" and f"{command_line.EXPERIMENT}=help" in line.overrides:
        print("\n".join(line.options_of(command_line.EXPERIMENT)))
        return 0
    if flags.multirun and (flags.cfg or flags.info):
        raise ConfigError("-m runs a sweep and --cfg or --info shows a config: give one of them")
    configs = list(compose.compositions(line))
    if flags.cfg or flags.info:
        return _call_hydra(line, [])
    built = [_built(command, cfg) for cfg in configs]  # all, for their checks
    for each in built:
        check_launch(command, each.config, flags.multirun)
    first, place = built[0], torchrun_place()
    if not flags.multirun:
        check_device(first.config.device)
    if not first.makes_run:
        if flags.multirun:
            raise ConfigError("runs= makes one table of many runs: leave -m out")
        return first.show()
    if place is not None and place.rank > 0:
        from cfexplain.commands.ranks.rank import follow_torchrun  # here, as help and mistakes need none of it

        with stop_on_signals():
            return 0 if first.config.dry_run else follow_torchrun(first.config, place)
    if first.config.dry_run:
        if flags.multirun:
            raise ConfigError("dry_run=true checks one run: leave -m out")
        return first.dry_run(_planned(command, first))
    with stop_on_signals():
        if flags.multirun:
            return _sweep(line, first.config)
        return _run_once(line, configs[0], first)


def _run_once(line: CommandLine, cfg: DictConfig, command: Command) -> int:
    if command.config.run_dir is None:
        folder = make_run_folder(_planned(line.command, command).parent)
    else:
        folder = Path(command.config.run_dir)
        claim_run_folder(folder)
        _check_same_run(folder, cfg)
    _call_hydra(line, [f"hydra.run.dir={quoted(str(folder))}"])
    return _exit_code(folder)


def _sweep(line: CommandLine, config: Any) -> int:
    if config.run_dir is None:
        folder = make_run_folder(Path(config.output_root) / line.command, prefix="sweep-")
    else:
        folder = Path(config.run_dir)
        claim_run_folder(folder)
    note_sweep(folder, line.command, line.typed)
    places = [f"hydra.sweep.dir={quoted(str(folder))}", "hydra.sweep.subdir=${hydra.job.num}"]
    try:
        with stops_passed_on(folder) if "hydra/launcher=joblib" in line.typed else nullcontext():
            code = _call_hydra(replace(line, overrides=compose.as_sweep(line)), places)
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


def _call_hydra(line: CommandLine, overrides: list[str]) -> int:
    """Hydra's own main: sweeps, launchers, --cfg, --info, completion and .hydra/ are its work."""
    import hydra

    ours = [*line.hydra_overrides, f"hydra.job.name={line.command}", *overrides]
    before = sys.argv
    sys.argv = [f"cfexplain {line.command}", *line.options, *line.overrides, *ours]
    try:
        hydra.main(version_base="1.3", config_path=str(line.config_dir), config_name=line.config_name)(_task)()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return 0


def _task(cfg: DictConfig) -> float:
    """One job, possibly in a process of its own on another machine. Its exit code goes into run.json."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from cfexplain.commands.job import run_job

    hydra_config = HydraConfig.get()
    command = hydra_config.job.name
    folder = _relative(Path(hydra_config.runtime.output_dir))
    argv = ["cfexplain", command, *_source(hydra_config), *hydra_config.overrides.task]
    saved = OmegaConf.merge(cfg, {"run_dir": None}) if cfg.run_dir is not None else cfg
    if hydra_config.mode is RunMode.MULTIRUN:
        _check_same_run(folder, saved)
        if is_done(folder, configs.plain(saved)):
            return say_done_already(folder, command_named(command).headlines[0], cfg.json)
        if "joblib" in hydra_config.launcher._target_:
            share_gpus(folder.parent, hydra_config.job.num)
    return run_job(command, lambda: _built(command, cfg), configs.to_yaml(saved), folder, argv)


def _source(hydra_config: DictConfig) -> list[str]:
    """--from <file>, where the config is a saved one."""
    name = hydra_config.job.config_name
    if name == hydra_config.job.name:
        return []
    (folder,) = [source.path for source in hydra_config.runtime.config_sources if source.provider == "main"]
    return ["--from", str(_relative(Path(folder) / f"{name}.yaml"))]


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
    try:
        return folder.relative_to(Path.cwd())
    except ValueError:
        return folder


def _exit_code(folder: Path) -> int:
    """As the job itself wrote it; 1 where it died before it could."""
    try:
        code = json.loads((folder / "run.json").read_text(encoding="utf-8"))["exit_code"]
    except (OSError, ValueError, KeyError):
        return 1
    return 1 if code is None else int(code)


def _complete(argv: list[str]) -> int:
    """Hydra's bash hook knows programs without commands: complete the command, then hand the rest to its config."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    query = argv[1] if len(argv) > 1 else ""
    if query.startswith("query="):
        if len(words) <= 2:
            print(" ".join(name for name in COMMANDS if name.startswith(words[-1] if len(words) > 1 else "")))
            return 0
        if words[1] not in COMMANDS or words[1] in WITHOUT_CONFIG:
            return 0
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    command = words[1] if query.startswith("query=") else "train"
    compose.register_presets()
    sys.argv = ["cfexplain", *argv]
    import hydra

    hydra.main(version_base="1.3", config_path=str(command_line.conf_dir()), config_name=command)(_task)()
    return 0
