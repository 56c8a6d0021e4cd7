"""cfexplain doctor: is this machine ready? A line for each check, and what to do where it is not well.

It needs no Hydra and no run, so that it can say what is wrong where nothing else starts.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from cfexplain.errors import ConfigError, did_you_mean
from cfexplain.health.all import all_checks
from cfexplain.health.check import Mark
from cfexplain.reporting.console import Reporter

USAGE = """Check this machine: versions that belong together, device, folders, data and weights at hand, a ten-step run.

  cfexplain doctor [root=data] [output_root=outputs] [cache_dir=...] [--json]

root: folder that holds the public sets (MNIST/, cifar-10-batches-py/, gtsrb/, mvtec/, ...).
Marks: ok; note, something is missing that not every run needs; problem.
Exit codes: 0 no problem, 1 a problem, 2 usage."""


def main(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(USAGE)
        return 0
    as_json = "--json" in argv or "json=true" in argv
    options = read_options([word for word in argv if word not in ("--json", "json=true", "json=false")])
    reporter, found = Reporter(sys.stdout, history=None), []
    for check in all_checks(**options):
        found.append(check)
        if not as_json:
            reporter.say(str(check))
    problems = [check.name for check in found if check.mark is Mark.problem]
    if as_json:
        values = [{**asdict(check), "mark": check.mark.value} for check in found]
        print(json.dumps({"status": "problem" if problems else "ok", "checks": values}), flush=True)
    else:
        reporter.say(f"{len(problems)} problems: {', '.join(problems)}" if problems else "no problem")
    return 1 if problems else 0


def read_options(words: list[str]) -> dict[str, Path]:
    """root, output_root and cache_dir, with the defaults that conf/ gives them."""
    cache = os.environ.get("CFEXPLAIN_CACHE") or Path(os.environ.get("HOME", "."), ".cache", "cfexplain")
    options = {"root": Path("data"), "output_root": Path("outputs"), "cache_dir": Path(cache)}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value:
            raise ConfigError(f"cannot read '{word}': wanted key=value; doctor takes {', '.join(options)} and --json")
        if key not in options:
            raise ConfigError(f"unknown key {key}.{did_you_mean(key, options)} doctor takes {', '.join(options)}")
        options[key] = Path(value).expanduser()
    if options["root"].is_file():
        raise ConfigError(
            f"root={options['root']} is a file, and doctor looks into a folder of sets; to check one set: "
            f"cfexplain train dataset=<name> dataset.root={options['root']} dry_run=true"
        )
    return options
