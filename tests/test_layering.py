"""Imports point down, and modules that hold specs load without torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"types", "errors", "version", "presets"}, {"config", "nets", "losses", "engine"}, {"data", "encoders"},
    {"detectors", "generators"},
    {"explanation"}, {"metrics"}, {"inspection"}, {"reporting"}, {"commands"}, {"command_line"}, {"compose"}, {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = [path for path in sorted((ROOT / "cfexplain").rglob("*.py")) if path.name != "__init__.py"]
KNOWS_HYDRA = {"cli.py", "config.py", "command_line.py", "compose.py"}


def part(path: Path) -> str:
    return path.relative_to(ROOT / "cfexplain").parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """Absolute names of the modules that a file imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            is_root = node.module == "cfexplain"
            names += [f"{node.module}.{alias.name}" for alias in node.names] if is_root else [node.module]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    for name in imported(path):
        if name.startswith("cfexplain."):
            other = name.split(".")[1]
            assert other == part(path) or HEIGHT[other] < HEIGHT[part(path)], f"{path.name} imports {name}"
        if name.split(".")[0] in ("hydra", "omegaconf"):
            assert path.name in KNOWS_HYDRA, f"{path.name} knows {name}"


def test_no_files_import_each_other_in_a_circle():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    graph = {name: [other for other in imported(path) if other in modules] for name, path in modules.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
    assert set(order) == set(modules) and any(graph.values())


def spec_modules() -> list[str]:
    targets = set()
    for file in (ROOT / "conf").rglob("*.yaml"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip().startswith("_target_:"):
                targets.add(line.split(":", 1)[1].strip().rpartition(".")[0])
    return sorted(targets)


def test_specs_load_without_torch():
    modules = spec_modules()
    assert "cfexplain.detectors.hsc" in modules and "cfexplain.metrics.fid" in modules
    code = f"import sys\nfor name in {modules!r}:\n __import__(name)\n assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
