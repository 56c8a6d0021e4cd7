"""Imports point down and in no circle, and torch is loaded by nobody's import: cfexplain/lazy.py is its one door."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"lazy", "errors", "checks", "version", "older_runs"}, {"types", "presets", "files"}, {"yaml_files"},
    {"config", "engine"}, {"data", "encoders"},
    {"detectors", "generators"}, {"explanation"}, {"metrics"}, {"runs"}, {"inspection"}, {"reporting"}, {"health"},
    {"commands"}, {"command_line"}, {"compose"}, {"dispatch"}, {"cli"}, {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = [path for path in sorted((ROOT / "cfexplain").rglob("*.py")) if path.name != "__init__.py"]
KNOWS_OMEGACONF = {"config.py", "command_line.py", "compose.py", "dispatch.py"}
BEHIND_THE_DOOR = {"torch", "torchvision", "torchmetrics", "scipy"}


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
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    for name in imported(path):
        if name.startswith("cfexplain."):
            other = name.split(".")[1]
            assert other == part(path) or HEIGHT[other] < HEIGHT[part(path)], f"{path.name} imports {name}"
        root = name.split(".")[0]
        assert root != "hydra" or path.name == "compose.py", f"{path.name} knows {name}"
        assert root != "omegaconf" or path.name in KNOWS_OMEGACONF, f"{path.name} knows {name}"
        assert root not in BEHIND_THE_DOOR or path.name == "lazy.py", f"{path.name} imports {name}: use cfexplain.lazy"


def test_no_files_import_each_other_in_a_circle():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    graph = {name: [other for other in imported(path) if other in modules] for name, path in modules.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
    assert set(order) == set(modules) and any(graph.values())


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_a_benchmark_imports_is_there(path):
    """They are run by hand: nobody else would notice that a name has moved."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cfexplain":
            for alias in node.names:
                module = importlib.import_module(node.module)
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_loads_without_torch():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name != "__main__.py"]
    assert "cfexplain.detectors.hsc" in modules and "cfexplain.explanation.game" in modules
    run_python(f"import sys\nfor name in {modules!r}:\n __import__(name)\n assert 'torch' not in sys.modules, name")


def test_a_network_defined_before_torch_is_one_of_torchs():
    said = run_python(
        "import sys\n"
        "from cfexplain.lazy import F, Tensor, nn, torch\n"
        "class Doubled(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(width, 1, bias=False)\n"
        "    def forward(self, values):\n"
        "        return 2 * self.layer(values)\n"
        "assert 'torch' not in sys.modules and not isinstance(1, Tensor)\n"
        "network = Doubled(3)\n"
        "import torch as real\n"
        "real.nn.init.ones_(network.layer.weight)\n"
        "assert isinstance(network, real.nn.Module) and issubclass(Doubled, real.nn.Module)\n"
        "assert list(network.state_dict()) == ['layer.weight'] and isinstance(real.zeros(1), Tensor)\n"
        "print(float(network(real.tensor([1.0, 2.0, 3.0]))), F.relu is real.nn.functional.relu)\n"
    )
    assert said == "12.0 True\n"


def test_the_page_on_the_architecture_names_what_there_is():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {f"{path.name}/" for path in (ROOT / "cfexplain").iterdir() if (path / "__init__.py").is_file()}
    assert rooms and all(f"| `{room}`" in page for room in rooms)
    named = [name for name in re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", page) if not name.startswith("tests/")]
    places = [ROOT / "cfexplain", *(ROOT / "cfexplain").iterdir()]
    assert named and all(any((place / name).exists() for place in places) for name in named)
