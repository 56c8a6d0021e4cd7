"""The words of a command line, split: the command's options, its overrides, and the config that they change."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import shutil
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from cfexplain.commands.base import command_named, ROOT_KEYS
from cfexplain.config import conf_dir, read
from cfexplain.errors import ConfigError, DataError
from cfexplain.presets import presets
from cfexplain.reporting.console import complain
from cfexplain.runs.lookup import holds_runs, run_folders
from cfexplain.yaml_files import yaml_text

MAX_SWEPT = 10_000  # values of a key
SAVED = "saved"  # what Hydra knows the config of --from by
EXPERIMENT = "experiment"  # the group whose options are the presets
LAUNCHERS = {  # name -> module it needs, extra that brings it, program it calls, our settings (conf/hydra/launcher)
    "joblib": ("joblib", "joblib", None, "cfexplain_joblib"),
    "submitit_slurm": ("submitit", "cluster", "sbatch", "cfexplain_slurm"),
    "submitit_local": ("submitit", "cluster", None, "submitit_local"),
}


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """A command's arguments, split.

    flags:     Hydra's options (-m, --cfg ...), as parsed.
    options:   the same options as they were typed.
    overrides: key=value, in their order; in a sweep, run=<sweep folder> as the list of its runs.
    typed:     key=value, as they were typed.
    source:    the saved config given by --from, or None for conf/<command>.yaml.
    saved:     the values in it, as `saved_values` gives them.
    """

    command: str
    flags: argparse.Namespace
    options: list[str]
    overrides: list[str]
    typed: list[str]
    source: Path | None
    saved: dict[str, Any]

    @property
    def config_name(self) -> str:
        return SAVED if self.source else self.command

    def options_of(self, group: str) -> list[str]:
        """What may stand for a group: files of conf/, presets, files of --config-dir."""
        own = presets() if group == EXPERIMENT else all_groups()[group]
        extra = Path(self.flags.config_dir, group).glob("*.yaml") if self.flags.config_dir else []
        return list(dict.fromkeys([*own, *sorted(file.stem for file in extra)]))

    @property
    def hydra_overrides(self) -> list[str]:
        """What a saved config lacks of Hydra's own settings, and the folder of --config-dir."""
        extra = [self.flags.config_dir] if self.flags.config_dir else []
        if self.source is None:
            return [_searchpath(extra)] if extra else []
        logging = ["hydra/job_logging=to_file", "hydra/hydra_logging=to_stderr"]
        return [*([_searchpath(extra)] if extra else []), *logging, f"hydra/help={self.command}"]


def parse(command: str, argv: list[str]) -> CommandLine:
    own = _Parser(add_help=False, allow_abbrev=False)
    own.add_argument("--json", action="store_true")
    own.add_argument("--from", dest="source", metavar="<run>/config.yaml", type=Path)
    ours, argv = own.parse_known_args(argv)
    source = ours.source and ours.source.resolve()
    if source and (source.suffix != ".yaml" or not source.is_file()):
        raise ConfigError(f"--from {source}: no such config; give the config.yaml of a run")
    argv += ["json=true"] if ours.json else []
    flags = _hydra_parser().parse_intermixed_args(argv)
    if flags.config_dir:
        _check_files(Path(flags.config_dir))
    options = list(argv)
    for override in flags.overrides:
        options.remove(override)
    overrides = [swept(text) for text in flags.overrides] if flags.multirun else flags.overrides
    overrides = [as_typed(command, text) for text in overrides]
    return CommandLine(
        command=command, flags=flags, options=options, overrides=overrides, typed=flags.overrides, source=source,
        saved=saved_values(source) if source else {},
    )


def saved_values(source: Path) -> dict[str, Any]:
    """What a config given by --from says. It is data: what it says of Hydra is ignored, and said to be."""
    try:
        values = read(source, resolve=False)
    except DataError as error:
        raise ConfigError(f"--from {error}") from error
    if "defaults" in values:
        raise ConfigError(f"--from {source}: it lists defaults; give the config.yaml of a run, which has every value")
    if values.pop("hydra", None) is not None:
        complain(f"note: what {source} says of hydra is ignored: a config file only gives values")
    return values


def listed(text: str, values: Callable[[], Iterator[str]]) -> list[str]:
    """The values of a sweep, which was typed as `text`."""
    try:
        found = list(itertools.islice(values(), MAX_SWEPT + 1))
    except ValueError as error:  # a range with step 0
        raise ConfigError(f"{text}: {error}") from error
    if not 0 < len(found) <= MAX_SWEPT:
        raise ConfigError(f"{text}: a sweep runs 1 to {MAX_SWEPT:,} values of a key")
    return found


def check_owner(line: CommandLine, override: Any) -> None:
    """explain and evaluate read what belongs to training from their run; saying it again could only contradict."""
    head = override.key_or_group.split(".")[0]
    moved = ROOT_KEYS.get(head)
    if line.command != "train" and override.key_or_group == f"{head}.root" and moved:
        raise ConfigError(f"{override.input_line}: {line.command} takes {head} from its run; if the images have moved, "
                          f"give {moved}={override.get_value_string()}")
    if line.command != "train" and head not in top_level_keys(line.command) and head in top_level_keys("train"):
        raise ConfigError(f"{override.input_line}: {line.command} takes {head} from its run and must not contradict "
                          f"it; leave it out, or train another run: cfexplain train {override.input_line}")


def _check_files(folder: Path) -> None:
    """ConfigError where --config-dir has options of Hydra's own, or a file that no config can be."""
    if (folder / "hydra").exists():
        raise ConfigError(f"--config-dir {folder} holds hydra/: a config file only gives values; leave that folder out")
    groups = [folder / group for group in (*all_groups(), EXPERIMENT)]
    for file in [*folder.glob("*.yaml"), *(file for group in groups for file in group.rglob("*.yaml"))]:
        try:
            yaml_text(file)
        except (OSError, DataError) as error:
            raise ConfigError(f"--config-dir: {error}") from error


def all_groups() -> dict[str, list[str]]:
    """Of conf/, with their options."""
    return {
        group.name: sorted(file.stem for file in group.glob("*.yaml"))
        for group in sorted(conf_dir().iterdir()) if group.is_dir() and group.name != "hydra"
    }


def top_level_keys(command: str) -> set[str]:
    """Of a command's config: its groups and its own values."""
    primary = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{command}.yaml"), resolve=False)
    defaults = primary.pop("defaults")
    groups = {name for entry in defaults if isinstance(entry, dict) for name in entry}
    files = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]  # parts of several commands
    shared = [OmegaConf.load(conf_dir() / f"{name}.yaml") for name in files]
    return {name for name in groups if not name.startswith("override ")} | set(primary).union(*shared)


def _searchpath(folders: list[Path | str]) -> str:
    places = ",".join(quoted(f"file://{Path(folder).resolve()}") for folder in folders)
    return f"hydra.searchpath=[{places}]"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; argparse would print ten of usage."""
        raise ConfigError(f"{message} (see cfexplain <command> --help)")


def _hydra_parser() -> _Parser:
    """Hydra's options, as its documentation lists them; Hydra reads them once more when it runs.

    Not --experimental-rerun, which unpickles a file, nor --config-path and --config-name, for which --from and
    --config-dir stand.
    """
    parser = _Parser(add_help=False)
    for names in (("--help", "-h"), ("--hydra-help",), ("--resolve",), ("--run", "-r"), ("--multirun", "-m")):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--info", "-i", nargs="?", const="all",
                        choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"])
    for names in (("--package", "-p"), ("--config-dir", "-cd")):
        parser.add_argument(*names)
    parser.add_argument("overrides", nargs="*")
    return parser


def swept(text: str) -> str:
    """An override of a sweep, with what Hydra does not know: run=<sweep folder>, run='<glob>', and launchers as we set
    them. (A launcher's file of ours by a plug-in's own name would be merged into it with a warning.)"""
    if text.startswith("run="):
        return _runs_listed(text)
    return _launcher(text) if text.startswith("hydra/launcher=") else text


def as_typed(command: str, override: str) -> str:
    """An override of a text, quoted where Hydra would read a number and write another, as of run_dir=2026_11_28."""
    key, _, value = override.partition("=")
    if re.search(r"['\"({]", value) or not any(map(_is_rewritten, re.split(r"[\[\],]", value))):
        return override
    words = re.sub(r"[^\[\],]+", lambda word: quoted(word[0].strip()) if _is_rewritten(word[0]) else word[0], value)
    return f"{key}={words}" if _is_text(command, key) else override


def _is_rewritten(word: str) -> bool:
    word = word.strip()
    for kind in (int, float):
        with suppress(ValueError):
            return str(kind(word)) != word
    return word.lower() in ("true", "false")


def _is_text(command: str, key: str) -> bool:
    """By the types of the command's own values, or of a class that some option of the group names."""
    group, _, name = key.rpartition(".")
    if group and group not in all_groups():
        return False
    classes = _classes(group) if group else [command_named(command).config_type]
    hints = [typing.get_type_hints(cls).get(name) for cls in classes]
    return any({str} == {*_plain_types(hint)} for hint in hints)


def _classes(group: str) -> list[type]:
    files = [conf_dir() / group / f"{option}.yaml" for option in all_groups()[group]]
    targets = {OmegaConf.to_container(OmegaConf.load(file), resolve=False).get("_target_") for file in files}
    places = [target.rpartition(".") for target in targets if target]
    return [getattr(importlib.import_module(module), name) for module, _, name in places]


def _plain_types(hint: Any) -> list[Any]:
    """str of str, str | None and list[str]; other types of others."""
    inner = [part for part in typing.get_args(hint) if part not in (type(None), ...)]
    return [each for part in inner for each in _plain_types(part)] if inner else [hint]


def quoting_advice(override: str) -> str:
    """How to type an override that Hydra cannot read: each value of a list in quotes."""
    key, _, value = override.partition("=")
    if value.startswith("[") and value.endswith("]"):
        words = (word.strip().strip("'\"") for word in value[1:-1].split(","))
        return f'"{key}=[{",".join(map(quoted, words))}]"'
    return f'"{key}={quoted(value)}"'


def quoted(text: str) -> str:
    """Text as one value in Hydra's override grammar, whatever characters it holds."""
    # A backslash counts only before a quote, the closing one included: doubled there, itself elsewhere.
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return "'" + escaped.replace("${", "\\${") + "'"


def _runs_listed(text: str) -> str:
    value = text.removeprefix("run=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    parts = [value] if Path(value).is_dir() else value.split(",")
    if not any(holds_runs(part) for part in parts):
        return text
    folders = [folder for part in parts for folder in (run_folders(part) if holds_runs(part) else [Path(part)])]
    if not folders:
        raise DataError(f"no run in {value}; train some: cfexplain train -m seed=0,1")
    return f"run={','.join(quoted(str(folder)) for folder in folders)}"


def _launcher(text: str) -> str:
    name = text.partition("=")[2]
    if name not in LAUNCHERS:
        return text
    module, extra, program, settings = LAUNCHERS[name]
    # Hydra's own message for one that is not installed is a page long.
    if not all(map(_can_import, (module, f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher"))):
        raise ConfigError(f"{text} is not installed: pip install 'cfexplain[{extra}]'")
    if program is not None and shutil.which(program) is None:
        raise ConfigError(f"{text} hands jobs to Slurm, and there is no {program} on this machine")
    return f"hydra/launcher={settings}"


def _can_import(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
