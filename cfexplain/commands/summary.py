"""The table of a sweep: made at its end, and from its folder alone by `cfexplain evaluate runs=<folder>`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from cfexplain import config as configs
from cfexplain.commands.judging_config import EvaluateConfig, HEADLINES
from cfexplain.data.datasets.base import DatasetSpec
from cfexplain.errors import CfexplainError, ConfigError, DataError
from cfexplain.reporting.summary_files import as_json, show_summary
from cfexplain.runs.lookup import run_folders
from cfexplain.runs.summary import summarize


def summarize_sweep(folder: Path, stream: TextIO) -> None:
    """Write the summary into the sweep's folder and show it."""
    found = summarize(run_folders(str(folder)), _slug)
    if found.cells:
        show_summary(found, folder, HEADLINES, stream)


def show_table(config: EvaluateConfig) -> int:
    """evaluate runs=<folders or globs>: none is measured. The summary goes to run_dir, else into the only one."""
    runs = list(config.runs or [])
    folders = list(dict.fromkeys(folder for text in runs for folder in run_folders(text)))
    if not folders:
        raise DataError(f"no run in {', '.join(runs)}; make some: cfexplain train -m seed=0,1")
    if config.run_dir is None and (len(runs) > 1 or not Path(runs[0]).is_dir()):
        raise ConfigError("runs= names several folders: say where their summary goes with run_dir=<folder>")
    place, found = Path(config.run_dir or runs[0]), summarize(folders, _slug)
    place.mkdir(parents=True, exist_ok=True)
    show_summary(found, place, HEADLINES, sys.stderr if config.json else sys.stdout)
    if config.json:
        print(json.dumps(as_json(found, place)), flush=True)
    return 0


def _slug(dataset: Mapping[str, Any]) -> str:
    """'<dataset>-<normal set>'; the class alone where the config is of another version or not ours."""
    try:
        return configs.build(dataset, DatasetSpec, "dataset").slug  # type: ignore[type-abstract]
    except CfexplainError:
        return str(dataset.get("_target_", "")).rpartition(".")[2].lower()
