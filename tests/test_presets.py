"""The presets: complete, of the size they claim, with the numbers that docs/presets.md shows for their table row."""

import importlib
import pkgutil
import re
from collections import Counter
from pathlib import Path

import pytest

import cfexplain.metrics
from cfexplain import compose, config
from cfexplain.command_line import parse
from cfexplain.commands.train_config import TrainConfig
from cfexplain.metrics.base import MetricSpec
from cfexplain.presets import DETECTORS, QUICK, REPORTED, presets, settings
from cfexplain.reporting.tables import metric_table

DOCS = Path(__file__).resolve().parent.parent / "docs"
SETTINGS = list(settings())
OTHERS = ("bias-", "neighbours-")  # no cells of the paper's tables
FULL = [name for name in presets() if not name.endswith(QUICK) and not name.startswith(OTHERS)]
# Each setting once, the detectors and both sizes in turn.
SAMPLE = [
    f"{setting.row}-{setting.name}-{DETECTORS[index % 3]}{QUICK if index % 2 else ''}"
    for index, setting in enumerate(SETTINGS)
]
SIZE = {
    "detector.steps", "fit.steps", "fit.batch_size", "fit.learning_rate", "fit.discriminator_learning_rate",
    "fit.ema_decay", "fit.log_every_steps", "fit.image_every_steps", "fit.checkpoint_every_steps",
}
SIZE_OF_PHOTOS = {"detector.embedding_dim", "encoder.width"}


def composed(name: str, *more: str):
    (cfg,) = compose.compositions(parse("train", [f"experiment={name}", *more]))
    return cfg


def flat(values, prefix: str = "") -> dict:
    leaves: dict = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


@pytest.mark.parametrize("name", SAMPLE)
def test_it_builds(name):
    preset = config.build_root(composed(name), TrainConfig)
    assert preset.experiment == name
    assert preset.detector.name == name.removesuffix(QUICK).rpartition("-")[2]
    assert (preset.fit.steps > 5000) == (not name.endswith(QUICK))
    row = next(row for row in REPORTED if name.startswith(f"{row}-"))
    assert preset.reported == REPORTED[row][preset.detector.name]


def test_no_two_are_the_same():
    contents = [repr(preset | {"experiment": None}) for preset in presets().values()]
    assert len(set(contents)) == len(contents)


def test_every_cell_is_there():
    assert Counter(setting.row for setting in SETTINGS) == {
        "mnist-single": 10, "mnist-multi": 5, "cifar10-single": 10, "cifar10-multi": 5, "cmnist": 7, "gtsrb": 6,
    }
    cells = {name: name.removesuffix(QUICK) for name in presets() if not name.startswith(OTHERS)}
    assert Counter(cells.values()) == {name: 2 for name in FULL} and len(FULL) == 43 * 3
    assert len(presets()) == 2 * 43 * 3 + 4 + 2
    assert {"mnist-single-1-bce", "mnist-multi-8_9-hsc-quick", "cmnist-red-bce", "cifar10-single-ship-dsvdd",
            "gtsrb-speed_limits-bce", "bias-green-glyphs", "bias-exposure-cmnist"} <= set(presets())


@pytest.mark.parametrize(("row", "dataset"), [("mnist-multi", "mnist.Mnist"), ("cifar10-multi", "cifar10.Cifar10")])
def test_the_pairs_hold_each_class_once(row, dataset):
    module, name = dataset.split(".")
    names = getattr(importlib.import_module(f"cfexplain.data.datasets.{module}"), name).class_names
    paired = [label for setting in SETTINGS if setting.row == row for label in setting.values["normal"]]
    assert sorted(paired) == sorted(names)


@pytest.mark.parametrize(("name", "extra"), [
    ("mnist-single-3-hsc", set()), ("cmnist-blue-dsvdd", set()), ("cifar10-multi-cat_dog-bce", SIZE_OF_PHOTOS),
    ("gtsrb-danger-bce", SIZE_OF_PHOTOS),
])
def test_quick_differs_in_size_only(name, extra):
    full, quick = (flat(config.plain(composed(size))) for size in (name, name + QUICK))
    differing = {key for key in full if full[key] != quick[key]}
    assert {key for key in differing if not key.startswith("generator.")} == {"experiment"} | SIZE | extra
    assert any(key.startswith("generator.") for key in differing) and full["generator._target_"] == quick[
        "generator._target_"]
    assert all(full[key] > quick[key] for key in differing - {"experiment"} if "rate" not in key and "patch" not in key)


def test_what_is_typed_wins_over_a_preset():
    typed = ["detector=hsc", "detector.steps=7", "fit=default", "dataset.normal=[2]", "seed=5"]
    cfg = composed("mnist-single-1-bce", *typed)
    assert cfg.detector._target_.endswith("Hsc") and cfg.detector.steps == 7
    assert cfg.fit.steps == 1200 and list(cfg.dataset.normal) == [2] and cfg.seed == 5


@pytest.mark.parametrize("dataset", ["glyphs", "cmnist"])
def test_the_two_of_the_bias_study_differ_in_exposure_only(dataset):
    green, plain = (flat(config.plain(composed(f"bias-{kind}-{dataset}"))) for kind in ("green", "exposure"))
    differing = {key for key in {*green, *plain} if green.get(key, ...) != plain.get(key, ...)}
    assert {key.split(".")[0] for key in differing} == {"experiment", "exposure"}
    assert green["exposure.classes"] == ["green *"] and green["seed"] == plain["seed"]
    assert "exposure.limit" in plain and plain["exposure._target_"].endswith(
        {"glyphs": "Letters", "cmnist": "Emnist"}[dataset])


@pytest.mark.parametrize(("name", "anomalous"), [
    ("neighbours-tabby", ["Persian cat", "Egyptian cat"]), ("neighbours-tabby-dog", ["golden retriever"]),
])
def test_the_neighbours_are_learned_without_those_that_are_tested(name, anomalous):
    preset = config.build_root(composed(name, "dataset.root=x"), TrainConfig)
    assert (preset.dataset.normal, preset.dataset.anomalous) == (["tabby"], anomalous)
    assert preset.exposure.name == "supervised" and preset.exposure.classes == ["*"] and preset.reported == {}


def test_reported_numbers_are_those_of_the_table():
    lines = re.findall(r"^\| `(.+?)-?\*` \|(.*)\|$", (DOCS / "presets.md").read_text(encoding="utf-8"), re.MULTILINE)
    table: dict = {}
    for row, cells in lines:
        for key, cell in zip(("cf_auroc", "fid_normalized"), cells.split("|")[-2:], strict=True):
            if cell.strip() != "-":
                for detector, number in zip(DETECTORS, cell.split("/"), strict=True):
                    table.setdefault(row, {}).setdefault(detector, {})[key] = pytest.approx(float(number) / 100)
    table["cmnist"]["bce"]["concept_accuracy_joint"] = 0.972  # stands below the table
    assert table == {row: dict(cells) for row, cells in REPORTED.items()}


def test_reported_keys_are_keys_of_metrics():
    known = set()
    for module in pkgutil.iter_modules(cfexplain.metrics.__path__):
        for value in vars(importlib.import_module(f"cfexplain.metrics.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, MetricSpec):
                known |= set(getattr(value, "meanings", {}))
    for cells in REPORTED.values():
        for reported in cells.values():
            assert set(reported) <= known and all(0 < number <= 3 for number in reported.values())


def test_the_column_of_the_paper_is_there_where_it_reports_something():
    metrics = {"cf_auroc": 0.5, "validity": 1.0}
    table = metric_table(metrics, {}, {"cf_auroc": 0.72, "fid_normalized": 0.4})
    column = table.headings.index("paper")
    assert [(row[0], row[column]) for row in table.rows] == [("cf_auroc", "0.720"), ("validity", "")]
    assert "paper" not in metric_table(metrics, {}).headings


@pytest.mark.parametrize("file", ["docs/presets.md", "docs/bias-study.md", "conf/hydra/help/train.yaml"])
def test_presets_named_in_texts_exist(file):
    text = (DOCS.parent / file).read_text(encoding="utf-8")
    named = re.findall(r"experiment=([a-z][a-z0-9_-]+)(?![a-z0-9_(*-])", text)
    assert named and set(named) - {"help", "glob"} <= set(presets())
