"""Opening a run that an earlier version trained."""

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cfexplain import compose
from cfexplain.command_line import parse
from cfexplain.commands.trained_run import open_run
from cfexplain.errors import DataError
from cfexplain.older_runs import MISSING_VALUES, with_missing_values


def test_values_that_came_later_are_what_they_were_before(tmp_path):
    (composed,) = compose.compositions(parse("train", ["dataset=cifar10", "fit=defects"]))
    values = OmegaConf.to_container(composed, resolve=True)
    missing = []
    for group in (part for part in values.values() if isinstance(part, dict)):
        for key in MISSING_VALUES.get(group.get("_target_"), {}):
            missing.append(key)
            del group[key]
    assert sorted(missing) == ["cycle", "decay", "exact_skip", "head_width", "joins_stem", "perceptual", "precision",
                               "processes", "region", "repair", "repair_drawn", "repair_whole"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "run.json").write_text(json.dumps({"command": "train", "status": "done"}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/generator.pt").touch()
    opened = open_run(str(tmp_path), "outputs", str(Path("cache")), allow_custom_code=False).config
    assert (opened.fit.cycle, opened.fit.decay, opened.runtime.processes) == (1.0, 0.0, 1)
    assert opened.runtime.precision.value == "float32" and (opened.fit.repair, opened.fit.region) == (0.0, 0.0)
    assert (opened.generator.exact_skip, opened.generator.head_width, opened.generator.joins_stem) == (
        False, 0, False
    )
    assert (opened.fit.num_concepts, opened.generator.width) == (1, 32)  # the rest is the run's own


@pytest.mark.parametrize("dataset", ["mvtec", "folder"])
def test_a_run_on_parts_without_todays_variation_has_none(dataset):
    (composed,) = compose.compositions(parse("train", [f"dataset={dataset}", "dataset.root=x"]))
    values = OmegaConf.to_container(composed, resolve=True)
    for key in ("rotation", "exposure"):
        del values["dataset"][key]
    opened = with_missing_values(values)["dataset"]
    assert (opened["rotation"], opened["exposure"]) == (0.0, 0.0)


@pytest.mark.parametrize(("dataset", "key"), [("mnist", "data_root"), ("cifar10", "data_root"), ("gtsrb", "data_root")])
def test_what_is_advised_where_data_are_missing_can_be_done(tmp_path, monkeypatch, dataset, key):
    monkeypatch.chdir(tmp_path)
    (composed,) = compose.compositions(parse("train", [f"dataset={dataset}", "dataset.root=nowhere"]))
    Path("t/checkpoints").mkdir(parents=True)
    Path("t/config.yaml").write_text(yaml.safe_dump(OmegaConf.to_container(composed, resolve=True)))
    Path("t/run.json").write_text(json.dumps({"command": "train", "status": "done"}))
    Path("t/checkpoints/generator.pt").touch()
    with pytest.raises(DataError) as caught:
        open_run("t", "outputs", "cache", allow_custom_code=False).load_splits()
    assert key in str(caught.value) and "dataset." not in str(caught.value) and "download" not in str(caught.value)
