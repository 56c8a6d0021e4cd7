"""Every conf/metric/*.yaml, present and future: one key, the fields of its dataclass, no torch to read it."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from cfexplain.config import build
from cfexplain.metrics.base import MetricSpec
from tests.specs import metric_values

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "conf" / "metric").glob("*.yaml"))


def load(file):
    """(name, spec class, values) of a YAML."""
    ((name, values),) = metric_values(file.stem).items()
    module, _, cls = values.pop("_target_").rpartition(".")
    return name, getattr(__import__(module, fromlist=[cls]), cls), values


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_yaml_and_dataclass_are_in_step(file):
    name, cls, values = load(file)
    assert issubclass(cls, MetricSpec)
    assert name == file.stem == cls.__module__.rpartition(".")[2]
    assert list(values) == [field.name for field in fields(cls)]
    spec = build(metric_values(file.stem)[name], MetricSpec, name)
    assert type(spec) is cls and spec.name == name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_numbers_out_of_range_are_refused(file):
    _, cls, values = load(file)
    for key, value in values.items():
        if isinstance(value, int | float):
            with pytest.raises(ValueError, match=key):
                cls(**values | {key: -1})


def test_specs_do_not_load_torch():
    modules = [load(file)[1].__module__ for file in FILES]
    code = f"import sys\nfor name in {modules}: __import__(name)\nprint([m for m in sys.modules if m[:5] == 'torch'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
