"""Values from YAML become typed specs; each mistake is one line with its place in front."""

from dataclasses import dataclass
from enum import Enum

import pytest

from cfexplain import config
from cfexplain.detectors.base import DetectorSpec
from cfexplain.detectors.hsc import Hsc
from cfexplain.errors import ConfigError, DataError

HSC = {
    "_target_": "cfexplain.detectors.hsc.Hsc", "embedding_dim": 8, "steps": 10, "batch_size": 16,
    "learning_rate": 1, "weight_decay": 0,
}


class Colour(Enum):
    RED = "red"
    none = "none"


@dataclass(frozen=True, kw_only=True)
class Values:
    number: int
    optional: int | None
    rate: float
    names: tuple[str, ...]
    sizes: list[int]
    colour: Colour
    flag: bool

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"number must be >= 0, got {self.number}")


GOOD = {"number": 1, "optional": None, "rate": 2, "names": ["a"], "sizes": [1], "colour": "red", "flag": True}


def test_values_have_the_annotated_types():
    built = config.build_root(GOOD, Values)
    assert built == Values(number=1, optional=None, rate=2.0, names=("a",), sizes=[1], colour=Colour.RED, flag=True)
    assert type(built.rate) is float and type(built.names) is tuple and type(built.sizes) is list


@pytest.mark.parametrize(("change", "message"), [
    ({"number": "many"}, "number must be a whole number, got 'many'"),
    ({"number": 1.5}, "number must be a whole number, got 1.5"),
    ({"number": None}, "number must be a whole number, got None"),
    ({"number": -1}, "number must be >= 0, got -1"),
    ({"optional": "x"}, "optional must be a whole number or null, got 'x'"),
    ({"rate": "fast"}, "rate must be a number, got 'fast'"),
    ({"sizes": 2.5}, "sizes must be a list, like [2.5], got 2.5"),
    ({"sizes": [1, "b"]}, "sizes[1] must be a whole number, got 'b'"),
    ({"colour": "rde"}, "colour must be one of red, none, got 'rde'. Did you mean red?"),
    ({"flag": "maybe"}, "flag must be true or false, got 'maybe'"),
    ({"numbr": 1}, "unknown key numbr. Did you mean number?"),
    ({"number": "???"}, "number is not set: give it as number=<value>"),
])
def test_a_mistake_is_named(change, message):
    with pytest.raises(ConfigError) as caught:
        config.build_root({**GOOD, **change}, Values)
    assert str(caught.value) == message


def test_a_spec_is_built_from_its_target():
    assert config.build(HSC, DetectorSpec, "detector") == Hsc(
        embedding_dim=8, steps=10, batch_size=16, learning_rate=1.0, weight_decay=0.0)


def test_a_range_error_has_the_group_in_front():
    with pytest.raises(ConfigError, match=r"^detector\.steps must be > 0, got 0$"):
        config.build({**HSC, "steps": 0}, DetectorSpec, "detector")


@pytest.mark.parametrize(("target", "message"), [
    ("os.system", "lies outside cfexplain"),
    ("cfexplainer.Evil", "lies outside cfexplain"),
    ("cfexplain.detectors.nosuch.Hsc", "cannot import"),
    ("cfexplain.detectors.hsc.Nosuch", "cannot import"),
    ("cfexplain.explanation.objective.GeneratorTraining", "is not a DetectorSpec"),
    ("cfexplain.config.build", "is not a class"),
])
def test_a_config_cannot_name_any_code(target, message):
    with pytest.raises(ConfigError, match=message):
        config.build({**HSC, "_target_": target}, DetectorSpec, "detector")


def test_custom_code_runs_when_asked_for(tmp_path, monkeypatch):
    code = ("from dataclasses import dataclass\nfrom cfexplain.detectors.hsc import Hsc\n"
            "@dataclass(frozen=True, kw_only=True)\nclass MyDetector(Hsc):\n    extra: int\n")
    (tmp_path / "my_detectors_of_a_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    node = {**HSC, "_target_": "my_detectors_of_a_test.MyDetector", "extra": 3}
    assert config.build(node, DetectorSpec, "detector", allow_custom_code=True).extra == 3


def test_difference_names_the_first_key_that_matters():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 5, "b": {"c": 2, "d": 4}}
    assert config.first_difference(old, new, ignore=("a",)) == "b.d"
    assert config.first_difference(old, old) is None
    assert config.first_difference({"a": 1}, {}) == "a"


def test_a_damaged_saved_config_is_a_data_error(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1,\n")
    with pytest.raises(DataError, match="damaged"):
        config.read(tmp_path / "config.yaml")
