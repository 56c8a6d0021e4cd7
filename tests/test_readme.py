"""Every `cfexplain` command of the README and of docs/ is a command: it composes and its values are in range."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """Arguments of each indented command line; one that ends in a backslash goes on in the next."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (cfexplain .*)$", text, re.MULTILINE)]


COMMANDS = {tuple(args): page for page in PAGES for args in commands(page)}
COMPOSED = [args for args in COMMANDS if "--from" not in args]  # that one needs a run; tests/cli repeats one


def test_the_three_commands_are_shown_in_the_readme():
    assert {args[0] for args in commands(ROOT / "README.md")} == {"train", "explain", "evaluate"}


@pytest.mark.parametrize("args", COMPOSED, ids=" ".join)
def test_it_composes(args):
    """In this process, 0.2 s instead of 0.5 s each; the values are checked as a run would check them."""
    import importlib

    from cfexplain import compose, config
    from cfexplain.command_line import parse

    root = importlib.import_module(f"cfexplain.commands.{args[0]}").COMMAND.config_type
    line = parse(args[0], list(args[1:]))
    assert all(isinstance(config.build_root(node, root), root) for node in compose.compositions(line)), COMMANDS[args]


def test_every_metric_is_in_the_glossary():
    """Each key that a metric explains in its table is explained on the page."""
    import importlib
    import pkgutil

    import cfexplain.metrics
    from cfexplain.metrics.base import MetricSpec

    for found in pkgutil.iter_modules(cfexplain.metrics.__path__):
        importlib.import_module(f"cfexplain.metrics.{found.name}")
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`([a-z0-9_<>]+)`", page))
    specs, keys = [MetricSpec], set()
    while specs:
        spec = specs.pop()
        specs += spec.__subclasses__()
        keys |= set(vars(spec).get("meanings", {})) if spec.__module__.startswith("cfexplain.") else set()
    assert len(keys) > 30
    assert {re.sub(r"^oracle_purity$", "oracle_purity_concept_<k>", key) for key in keys} <= known


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
