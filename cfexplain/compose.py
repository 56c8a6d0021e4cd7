"""Everything that is asked of Hydra: a command line -> the configs of its runs, checked before a folder is made or
torch is loaded; and the runs themselves, by Hydra's own main.

Hydra's own messages span several lines and know no "did you mean"; here each mistake becomes one line.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cfexplain import command_line
from cfexplain.command_line import all_groups, check_owner, CommandLine, EXPERIMENT, listed, top_level_keys
from cfexplain.config import conf_dir, first_difference, known_keys, knows_both, register_resolver
from cfexplain.errors import CfexplainError, ConfigError, did_you_mean, reason_of
from cfexplain.presets import presets

BEHAVIOUR = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}  # later versions want no such word
HELP_WIDTH = 120
FREE_OF_HYDRA = r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper|job\.env_set)\.[\w.]+|hydra\.verbose"
FREE_WORDS = "the other values of hydra.launcher and hydra.sweeper, hydra.job.env_set and hydra.verbose"
PLACES_OF_LAUNCHERS = r"\b(_target_|submitit_folder|temp_folder)\b|=.*\bhydra\b"  # and what they run
MAX_COMPOSED = 32  # other options of groups in a sweep, before it starts; some tenths of a second each


def compositions(line: CommandLine) -> Iterator[DictConfig]:
    """The config of each run. Of a sweep: the first combination, then every other value beside those first ones."""
    register_presets(line)
    first, *others = _combinations(line)
    yield (base := _in_our_words(_composed, line, first))
    groups, composed = [*all_groups(), EXPERIMENT], []
    for overrides in others:  # names and values first, as they are quickly checked
        for override in _parsed([*{*overrides} - {*first}]):
            _check_option(line, override, groups)
            if override.key_or_group in groups or override.is_add():
                composed.append(overrides)
            else:
                yield _in_our_words(_changed, base, override)
    num_composed = len(composed) if line.flags.config_dir else MAX_COMPOSED  # of that folder all are looked at
    yield from (_in_our_words(_composed, line, overrides) for overrides in composed[:num_composed])


def _in_our_words(make: Callable[..., DictConfig], *given: Any) -> DictConfig:
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), **BEHAVIOUR):
            return make(*given)
    except CfexplainError:
        raise
    except Exception as error:  # noqa: BLE001: Hydra fails in many ways on files that hold no config
        reasons = (reason_of(each) for each in (error, error.__cause__) if each)  # the cause is the more telling one
        raise ConfigError("; ".join(reasons)) from error


@dataclass(frozen=True, kw_only=True)
class HydraJob:
    """What Hydra knows of the job that it runs."""

    command: str
    folder: Path
    overrides: list[str]
    is_sweep: bool
    number: int
    launcher: str


def call_hydra(task: Callable[[DictConfig, Path | None], float], line: CommandLine, overrides: list[str]) -> int:
    """Hydra's own main: sweeps, launchers, --cfg, --info, completion and .hydra/ are its work."""
    def task_of_source(cfg: DictConfig) -> float:
        return task(cfg, line.source)

    words = [*line.overrides, *line.hydra_overrides, f"hydra.job.name={line.command}", *overrides, *line.options]
    before, sys.argv = sys.argv, [f"cfexplain {line.command}", *words]
    try:
        hydra.main(config_path=str(conf_dir()), config_name=line.config_name, **BEHAVIOUR)(task_of_source)()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return 0


def complete(task: Callable[[DictConfig, Path | None], float], command: str, argv: list[str]) -> None:
    """Print what Hydra's completion script asks for."""
    sys.argv = ["cfexplain", *argv]
    hydra.main(config_path=str(conf_dir()), config_name=command, **BEHAVIOUR)(task)()


def current_job() -> HydraJob:
    """Inside a task that `call_hydra` runs."""
    known = HydraConfig.get()
    is_sweep = known.mode is RunMode.MULTIRUN
    return HydraJob(
        command=known.job.name, folder=Path(known.runtime.output_dir), overrides=list(known.overrides.task),
        is_sweep=is_sweep, number=known.job.num if is_sweep else 0, launcher=known.launcher._target_,
    )


def register_help(line: CommandLine) -> None:
    """Make Hydra know ${groups:} of conf/hydra/help: the command's own groups with their options."""
    own = top_level_keys(line.command)
    groups = [f"{name}: {', '.join(line.options_of(name))}" for name in all_groups() if name in own]
    lines = [part for text in groups for part in textwrap.wrap(text, HELP_WIDTH, subsequent_indent="  ")]
    register_resolver("groups", lambda: "\n".join(lines), replace=True)


def register_presets(line: CommandLine | None = None) -> None:
    """Make Hydra know the presets that a command line names, which keeps --help short; without a line all of them; and
    the values of --from, so that it reads no file for them, nor what lies beside it."""
    if line is not None and line.source:
        ConfigStore.instance().store(name=line.config_name, node=line.saved)
    known = presets()
    for name in known if line is None else _named_experiments(line):
        if name in known:  # else it is a file of --config-dir
            ConfigStore.instance().store(name=name, node=known[name], group=EXPERIMENT, package="_global_")


def _named_experiments(line: CommandLine) -> list[str]:
    names = []
    for override in _parsed(line.overrides):
        if override.key_or_group == EXPERIMENT and override.value() is not None and not line.source:
            names += [value.strip("'\"") for value in _values(line, override)]
    for name in names:
        _check_name(line, EXPERIMENT, name)
    return names


def as_sweep(line: CommandLine) -> list[str]:
    """The overrides of a sweep, with dataset.root=x as the sweep of one value dataset.root=choice(x).

    Hydra composes a first config without the swept groups, in which such a key need not exist; what is swept it leaves
    to the jobs.
    """
    groups = all_groups()
    return [
        f"{override.get_key_element()}=choice({override.get_value_string()})"
        if override.key_or_group.split(".")[0] in groups and "." in override.key_or_group
        and not override.is_sweep_override() and not override.is_delete() else text
        for text, override in zip(line.overrides, _parsed(line.overrides), strict=True)
    ]


def _composed(line: CommandLine, overrides: list[str]) -> DictConfig:
    parsed = _parsed(overrides)
    groups = [*all_groups(), EXPERIMENT]
    for override in parsed:
        _check_place(override)
        check_owner(line, override)
        _check_option(line, override, groups)
    own_groups = set() if line.source else top_level_keys(line.command) & set(groups)
    chosen = [text for text, override in zip(overrides, parsed, strict=True) if override.key_or_group in own_groups]
    base = compose(line.config_name, [*line.hydra_overrides, *chosen])
    for override in parsed:
        _check_key(override, base, groups)
    composed = compose(line.config_name, [*line.hydra_overrides, *overrides])
    if composed.get("allow_custom_code") and "allow_custom_code" not in [each.key_or_group for each in parsed]:
        raise ConfigError("allow_custom_code: true in a config file does not count, for a file must not run code "
                          "unasked. If you trust it, add allow_custom_code=true")
    if {"dataset.normal", "dataset.anomalous"} <= {each.key_or_group for each in parsed} and not knows_both(composed):
        raise ConfigError("dataset.normal and dataset.anomalous each name the normal set: give one of them")
    if line.flags.config_dir:
        _check_hydra(line, overrides)
    return composed


def _changed(first: DictConfig, override: Override) -> DictConfig:
    """The first config of a sweep with another value."""
    OmegaConf.update(changed := first.copy(), override.key_or_group, override.value())
    return changed


def _check_place(override: Override) -> None:
    """Of Hydra's own settings those of launchers and sweepers, but for the places that they write to."""
    where = [override.key_or_group, *(override.package or "").replace("@", "").split(":")]
    inside = [name for name in where if re.match(r"hydra\b", name)]
    is_free = all(re.fullmatch(FREE_OF_HYDRA, name) for name in inside)
    value = str(override.value())
    is_path = "/" in override.key_or_group and "/" in value
    if inside and (not is_free or is_path or re.search(PLACES_OF_LAUNCHERS, f"{override.key_or_group}={value}")):
        raise ConfigError(f"{override.input_line}: where Hydra writes and what it runs is not to be set; leave it out "
                          f"(free are {FREE_WORDS})")


def _check_hydra(line: CommandLine, overrides: list[str]) -> None:
    """ConfigError where a file of --config-dir changes Hydra's own settings, through which it could run code."""
    typed = [text for text, each in zip(overrides, _parsed(overrides), strict=True) if "hydra" in each.key_or_group]
    asked, found = (
        OmegaConf.to_container(compose(line.config_name, words, return_hydra_config=True).hydra, resolve=False)
        for words in ([*line.hydra_overrides, *typed], [*line.hydra_overrides, *overrides])
    )
    for values in (asked, found):  # what follows from the words
        del values["overrides"], values["runtime"], values["job"]["override_dirname"]
    if (key := first_difference(asked, found)) is not None:
        raise ConfigError(f"a file in {line.flags.config_dir} sets hydra.{key}: a config file gives values, and must "
                          "not tell Hydra what to run or where to write; take it out of the file")


def _combinations(line: CommandLine) -> list[list[str]]:
    choices: list[list[str]] = []
    for text, override in zip(line.overrides, _parsed(line.overrides), strict=True):
        if not override.is_sweep_override():
            choices.append([text])
        elif not line.flags.multirun:
            values = f"{override.get_key_element()}='{override.get_value_string()}'"
            raise ConfigError(f"{text} is a sweep: add -m to run each value, or write a list as key=[a,b] ({values})")
        elif override.is_discrete_sweep():
            choices.append([f"{override.get_key_element()}={value}" for value in _values(line, override)])
        elif not any(text.startswith("hydra/sweeper=") for text in line.overrides):
            raise ConfigError(f"{text}: an interval needs a sweeper that draws values (hydra/sweeper=...); give a list")
        # Such a sweeper gives an interval its values; each job checks its own.
    first = [values[0] for values in choices]
    others = [
        [*first[:index], value, *first[index + 1 :]]
        for index, values in enumerate(choices)
        for value in values[1:]
    ]
    return [first, *others]


def _values(line: CommandLine, override: Override) -> list[str]:
    """The single values of an override as they would be typed: one, or those of a sweep or a glob."""
    value, group = override.value(), override.key_or_group
    if not isinstance(value, Glob):
        is_sweep = override.is_discrete_sweep()
        return listed(override.input_line, override.sweep_string_iterator) if is_sweep else [str(value)]
    if group not in [*all_groups(), EXPERIMENT]:
        raise ConfigError(f"{override.input_line}: glob() chooses among the options of a group, and {group} is none")
    matching = value.filter(line.options_of(group))
    if not matching:
        raise ConfigError(f"{override.input_line} matches no {group}.{_listed(line, group)}")
    return matching


def _listed(line: CommandLine, group: str) -> str:
    """' Options: a, b', or how to see them where they are many."""
    if group == EXPERIMENT:
        return f" List them: cfexplain {line.command} {EXPERIMENT}=help"
    return f" Options: {', '.join(line.options_of(group))}"


def _parsed(overrides: list[str]) -> list[Override]:
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(f"cannot read '{text}': wanted key=value")
        try:
            parsed.append(OverridesParser.create().parse_rule(text, "override"))
        except Exception as error:  # noqa: BLE001: its grammar's own errors too, of bytes that are no UTF-8
            advice = command_line.quoting_advice(text)
            raise ConfigError(f"cannot read {text!r} ({reason_of(error)}); quote it: {advice}") from error
    return parsed


def _check_option(line: CommandLine, override: Override, groups: list[str]) -> None:
    """A group override must name existing options."""
    group = override.key_or_group
    if group not in groups or override.is_delete():
        return
    if line.source:
        raise ConfigError(f"{group}= chooses a group, and --from repeats a run with the groups it had; override single "
                          f"values ({group}.<key>=<value>), or leave --from out")
    value: Any = override.value()
    if value is None and group == "metric":
        raise ConfigError(f"{override.input_line}: name metrics, metric=[auroc,fid]")
    if isinstance(value, list) and group != "metric":
        raise ConfigError(f"{override.input_line}: give one {group}; a sweep runs several, -m {group}=a,b")
    for option in value if isinstance(value, list) else [value]:
        if option is not None:
            _check_name(line, group, str(option))


def _check_name(line: CommandLine, group: str, option: str) -> None:
    options = line.options_of(group)
    if option not in options:
        raise ConfigError(f"no {group} '{option}'.{did_you_mean(option, options)}{_listed(line, group)}")


def _check_key(override: Override, base: DictConfig, groups: list[str]) -> None:
    """A key must exist, unless it is added (+key) or Hydra's own."""
    key = override.key_or_group
    known = known_keys(OmegaConf.to_container(base, resolve=False))
    if key.split(".")[0].split("/")[0] == "hydra" or override.is_add() or key in known:
        return
    if key in groups:
        raise ConfigError(f"unknown key {key}: this command has no such group")
    inside = [name for name in [*known, *groups] if name.rpartition(".")[0] == key.rpartition(".")[0]]
    raise ConfigError(f"unknown key {key}.{did_you_mean(key, inside) or did_you_mean(key, known)}")
