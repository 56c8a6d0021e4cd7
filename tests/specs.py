"""What conf/ says of generator and objective, made small: a value that is added there is here too."""

from __future__ import annotations

from typing import Any

import yaml

from cfexplain.config import build
from cfexplain.explanation.objective import GeneratorTraining
from cfexplain.generators.conv import Conv
from tests.conftest import ROOT


def small_generator(**values: Any) -> Conv:
    small = {"width": 8, "num_middle_blocks": 1, "discriminator_width": 8, "discriminator_blocks": 2,
             "concept_width": 8, "concept_blocks": 2}
    return build(_read("generator/conv_small") | small | values, Conv, "generator")


def small_fit(**values: Any) -> GeneratorTraining:
    often = {"ema_decay": 0.9, "log_every_steps": 5, "image_every_steps": 5, "checkpoint_every_steps": 5}
    return build(_read("fit/default") | often | values, GeneratorTraining, "fit")


def metric_values(name: str) -> dict[str, Any]:
    """What conf/metric/<name>.yaml composes to: one key, and of its defaults the options that they name."""
    values = _read(f"metric/{name}")
    for default in values.pop("defaults", []):
        if default != "_self_":
            ((place, option),) = default.items()
            group, _, path = place.removeprefix("/").partition("@")
            *outer, last = path.split(".")
            node = values
            for key in outer:
                node = node.setdefault(key, {})
            node[last] = _read(f"{group}/{option}")
    return values


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text(encoding="utf-8"))
