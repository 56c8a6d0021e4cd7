"""conf/ and the dataclasses in step: every option of every group composes, and no number hides in a default."""

import importlib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from cfexplain import compose, config
from cfexplain.command_line import parse, quoted
from cfexplain.generators.unet import Unet

CONF = Path(__file__).resolve().parent.parent / "conf"
OPTIONS = [
    (folder.name, file.stem) for folder in sorted(CONF.iterdir()) if folder.is_dir() and folder.name != "hydra"
    for file in sorted(folder.glob("*.yaml"))
]
COMMAND_OF = {"metric": "evaluate"}


def built(command: str, *overrides: str):
    (cfg,) = compose.compositions(parse(command, list(overrides)))
    return config.build_root(cfg, importlib.import_module(f"cfexplain.commands.{command}").COMMAND.config_type)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=["/".join(pair) for pair in OPTIONS])
def test_every_option_builds_and_its_values_come_from_yaml(group, option):
    if group == "metric":
        metrics = built("evaluate", "run=x", f"metric=[{option}]").metric
        assert list(metrics) == [option]
        spec = metrics[option]
    else:
        # the stage without a generator: an option may lack exposure, which is another test's business
        values = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
        needed = [f"{group}.{key}=needed" for key, value in values.items() if value == "???"]
        chosen = [f"{group}={option}", *(["detector=dsvdd"] if group != "detector" else [])]
        needed += ["detector.path=needed"] if chosen == ["detector=external"] else []  # a path or a factory
        spec = getattr(built("train", *chosen, "stage=detector", *needed), group)
    assert [field.name for field in fields(spec) if field.default is not MISSING] == []
    assert [field.name for field in fields(spec) if field.default_factory is not MISSING] == []


@pytest.mark.parametrize("command", ["train", "explain", "evaluate"])
def test_the_root_has_exactly_the_fields_of_its_dataclass(command):
    values = yaml.safe_load((CONF / f"{command}.yaml").read_text())
    defaults = values.pop("defaults")
    groups = {name for entry in defaults if isinstance(entry, dict) for name in entry}
    files = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    included = [yaml.safe_load((CONF / f"{name}.yaml").read_text()) for name in files]
    keys = {name for name in groups if not name.startswith("override ")} | set(values).union(*included)
    root = importlib.import_module(f"cfexplain.commands.{command}").COMMAND.config_type
    assert keys == {field.name for field in fields(root)}


def test_the_default_preset_of_the_paper_differs_only_in_the_objective():
    default, paper = built("train").fit, built("train", "fit=paper").fit
    differing = {field.name for field in fields(default) if getattr(default, field.name) != getattr(paper, field.name)}
    assert {"score_stop", "matching", "diversity"} <= differing
    assert not differing & {"steps", "batch_size", "num_concepts", "num_alpha_bins", "score", "learning_rate"}
    assert (paper.adversarial, paper.score) == (1.0, 1.0)  # the weights of the lineage


@pytest.mark.parametrize("dataset", ["folder", "mvtec", "mvtec_256"])
def test_parts_have_one_way_back_to_normal_unless_asked_otherwise(dataset):
    chosen = [f"dataset={dataset}", "dataset.root=parts"]
    fit = built("train", *chosen).fit
    assert (fit.num_concepts, fit.cycle) == (1, 0.0)
    assert built("train", *chosen, "fit.num_concepts=2").fit.num_concepts == 2
    assert built("train", *chosen, "fit=default").fit == built("train").fit


def test_photographs_keep_their_shades_and_digits_need_not():
    kinds = {"cifar10": True, "gtsrb": True, "neighbours": True, "mnist": False, "cmnist": False, "glyphs": False}
    for dataset, is_exact in kinds.items():
        root = [] if dataset == "glyphs" else ["dataset.root=x"]
        assert built("train", f"dataset={dataset}", *root).generator.exact_skip == is_exact, dataset
    for dataset in ("mvtec", "folder"):  # outside its region this one leaves all as it is
        assert isinstance(built("train", f"dataset={dataset}", "dataset.root=x").generator, Unet)
    for preset in ("cifar10-single-ship-bce", "cifar10-single-ship-bce-quick", "gtsrb-danger-hsc"):
        assert built("train", f"experiment={preset}").generator.exact_skip
    for preset in ("mnist-single-1-bce", "mnist-single-1-bce-quick", "cmnist-red-bce"):
        assert not built("train", f"experiment={preset}").generator.exact_skip


def test_only_changed_first_values_of_a_sweep_are_checked_beside_the_first():
    line = parse("train", ["-m", "seed=0,1", "detector=bce,hsc"])
    seen = [(cfg.seed, cfg.detector._target_.rpartition(".")[2]) for cfg in compose.compositions(line)]
    assert seen == [(0, "Bce"), (1, "Bce"), (0, "Hsc")]


@pytest.mark.parametrize("text", ["a b", "it's", "a,b=[c]", "${x}", "back\\slash", "end\\", "q'\\'"])
def test_any_folder_name_passes_hydra_unchanged(text):
    (cfg,) = compose.compositions(parse("train", [f"run_dir={quoted(text)}"]))
    assert cfg.run_dir == text
