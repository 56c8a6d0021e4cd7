"""Words of a sweep's command line: run=<a sweep> as the list of its runs, a launcher with our settings."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cfexplain.errors import ConfigError, DataError
from cfexplain.runs.lookup import holds_runs, run_folders

LAUNCHERS = {  # name -> module it needs, extra that brings it, program it calls, our settings (conf/hydra/launcher)
    "joblib": ("joblib", "joblib", None, "cfexplain_joblib"),
    "submitit_slurm": ("submitit", "cluster", "sbatch", "cfexplain_slurm"),
    "submitit_local": ("submitit", "cluster", None, "submitit_local"),
}


def with_runs(overrides: Sequence[str]) -> list[str]:
    """run=<sweep folder> and run='<glob>' of a sweep, as the list of the runs that they stand for."""
    return [_runs_listed(text) if text.startswith("run=") else text for text in overrides]


def with_launcher(overrides: Sequence[str]) -> list[str]:
    """A plug-in's launcher with our settings. A file of ours by its name would be merged into it with a warning."""
    return [_launcher(text) if text.startswith("hydra/launcher=") else text for text in overrides]


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
