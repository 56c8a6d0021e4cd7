"""What every dataset spec keeps to: no torch before `load`, and a YAML that holds just its fields."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from cfexplain.data.datasets.cifar10 import Cifar10
from cfexplain.data.datasets.cmnist import Cmnist
from cfexplain.data.datasets.folder import Folder
from cfexplain.data.datasets.glyphs import Glyphs
from cfexplain.data.datasets.gtsrb import Gtsrb
from cfexplain.data.datasets.mnist import Mnist
from cfexplain.data.datasets.mvtec import Mvtec
from cfexplain.data.datasets.neighbours import Neighbours
from tests.conftest import ROOT

CONF = ROOT / "conf" / "dataset"
SPECS = [Glyphs, Mnist, Cmnist, Cifar10, Gtsrb, Mvtec, Folder, Neighbours]


@pytest.mark.parametrize("spec", SPECS)
def test_the_yaml_holds_the_fields(spec):
    values = yaml.safe_load((CONF / f"{spec.__name__.lower()}.yaml").read_text())
    values.pop("defaults")
    assert values.pop("_target_") == f"{spec.__module__}.{spec.__name__}"
    assert set(values) == {field.name for field in fields(spec)}


def test_specs_are_checked_without_torch():
    modules = ", ".join(spec.__module__ for spec in SPECS)
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("spec", SPECS)
def test_the_types_are_ones_that_omegaconf_knows(spec, tmp_path):
    from omegaconf import OmegaConf
    from omegaconf.errors import ValidationError

    values = yaml.safe_load((CONF / f"{spec.__name__.lower()}.yaml").read_text()) | {"cache_dir": str(tmp_path)}
    values.pop("_target_"), values.pop("defaults")
    values = {key: "given" if value == "???" else value for key, value in values.items()}
    built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(spec), values))
    assert isinstance(built, spec) and built.slug.startswith(spec.__name__.lower())
    with pytest.raises(ValidationError):
        OmegaConf.merge(OmegaConf.structured(spec), values | {"seed": "one"})
