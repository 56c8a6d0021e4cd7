"""What runs of earlier versions say otherwise: targets by their new names, values that they lack and did without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {  # target, or the start of one up to a dot
    **{f"cfexplain.data.{name}.": f"cfexplain.data.datasets.{name}."
       for name in ("cifar10", "cmnist", "folder", "glyphs", "gtsrb", "mnist", "mvtec")},
    **{f"cfexplain.data.exposures.{name}.": "cfexplain.data.exposures.idx." for name in ("emnist", "fashion")},
    "cfexplain.commands.runtime.Runtime": "cfexplain.engine.runtime.Runtime",
    "cfexplain.detectors.external.External": "cfexplain.detectors.external.spec.External",
    "cfexplain.explanation.spec.Fit": "cfexplain.explanation.objective.GeneratorTraining",
    "cfexplain.metrics.alterations.": "cfexplain.metrics.survival.",
    **{f"cfexplain.metrics.{name}": "cfexplain.metrics.classifiers.NetworkRecipe"
       for name in ("judge_recipe.JudgeRecipe", "judges.JudgeRecipe", "classifiers.ClassifierRecipe")},
}
MISSING_VALUES: Mapping[str, Mapping[str, Any]] = {  # target -> what it was before there was a value for it
    "cfexplain.engine.runtime.Runtime": {"processes": 1, "precision": "float32"},
    "cfexplain.explanation.objective.GeneratorTraining": {
        "cycle": 1.0, "decay": 0.0, "repair": 0.0, "repair_whole": 0.0, "repair_drawn": 0.0, "perceptual": 0.0,
        "region": 0.0,
    },
    "cfexplain.data.datasets.folder.Folder": {
        "rotation": 0.0, "exposure": 0.0, "groups": None, "group_column": "group", "bits": 16,
    },
    "cfexplain.data.datasets.mvtec.Mvtec": {"rotation": 0.0, "exposure": 0.0, "bits": 16},
    "cfexplain.detectors.gaussian.Gaussian": {"map_layers": None},
    "cfexplain.generators.unet.Unet": {
        "sees_score_map": False, "false_region_rate": 0.02, "inpaints": False, "rises": True,
    },
    "cfexplain.generators.conv.Conv": {"exact_skip": False, "head_width": 0, "joins_stem": False},
}


def todays_target(target: str) -> str:
    """The class that `_target_` names in this version."""
    start = target[: target.rfind(".") + 1]
    return MOVED.get(target) or MOVED.get(start, start) + target[len(start) :]


def measured_beside_explanations(batch: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was measured on a saved batch; it has a file of its own today."""
    return batch.get("inspection")


def with_missing_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run, in which groups lack no value that this version wants."""
    return {
        key: {**MISSING_VALUES.get(todays_target(str(part.get("_target_"))), {}), **part}
        if isinstance(part, dict) else part for key, part in config.items()
    }
