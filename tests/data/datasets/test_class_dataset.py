"""Normal sets: ids, names, groups, their complements, and what cannot be meant."""

from __future__ import annotations

import re

import pytest

from cfexplain.data.reading.cifar import CIFAR10, CIFAR100
from cfexplain.data.datasets.base import as_slug
from cfexplain.data.datasets.cifar10 import Cifar10
from cfexplain.data.datasets.class_dataset import normal_classes
from cfexplain.data.datasets.gtsrb import CLASS_NAMES, Gtsrb, NAMED_SETS

NAMES = ("20 km/h", "stop", "give way", "bend", "road work")
SETS = {"all_stops": (1, 2), "warnings": (3, 4)}


def normal(*words: str, anomalous: list[str] | None = None) -> tuple[int, ...]:
    return normal_classes(list(words), anomalous, NAMES, SETS)


def test_ids_names_and_groups_mean_the_same_and_come_sorted():
    assert normal("2", "1") == normal("give way", "stop") == normal("all_stops") == (1, 2)
    assert normal("warnings", "0") == normal("20 km/h", "bend", "4") == (0, 3, 4)


def test_anomalous_takes_the_place_of_normal():
    assert normal("0", anomalous=["stop"]) == (0, 2, 3, 4)
    assert normal("whatever", anomalous=["warnings"]) == (0, 1, 2)


@pytest.mark.parametrize(
    ("words", "anomalous", "message"),
    [
        ([], None, r"^normal is empty"),
        (["0"], [], r"^anomalous is empty"),
        (["5"], None, r"^normal: no class '5'; ids are 0 to 4"),
        (["-1"], None, r"^normal: no class '-1'"),
        (["1.0"], None, r"^normal: no class '1\.0'"),
        (["stopp"], None, r"Did you mean stop\?"),
        (["0"], ["warning"], r"^anomalous: no class 'warning'.* Did you mean warnings\?"),
        (["stop", "1"], None, r"^normal names a class twice"),
        (["all_stops", "give way"], None, r"^normal names a class twice"),
        (["0", "all_stops", "warnings"], None, r"^normal holds all 5 classes"),
        (["0"], ["0", "all_stops", "warnings"], r"^anomalous holds all 5 classes"),
    ],
)
def test_what_cannot_be_meant_names_its_field_in_one_line(words, anomalous, message):
    with pytest.raises(ValueError, match=message) as caught:
        normal(*words, anomalous=anomalous)
    assert "\n" not in str(caught.value)


def test_slugs_do_not_depend_on_the_order_and_suit_folder_names(fields):
    fields = fields | {"flip": False, "crop_padding": 0}

    def slug(spec: type, *normal: str, anomalous: list[str] | None = None) -> str:
        return spec(**fields | {"normal": list(normal), "anomalous": anomalous}).slug

    assert slug(Cifar10, "9", "8") == slug(Cifar10, "8", "9") == "cifar10-8_9"
    assert slug(Gtsrb, "8", anomalous=["stop", "general caution"]) == "gtsrb-not_general_caution_stop"
    for spec, names in ((Gtsrb, (*CLASS_NAMES, *NAMED_SETS)), (Cifar10, CIFAR10.class_names)):
        for name in names:
            assert re.fullmatch("[a-z0-9_-]+", slug(spec, name)), name
    for name in ("ä ö", "../up"):
        assert re.fullmatch("[a-z0-9_-]+", as_slug(name)), name


def test_the_sign_groups_are_those_of_the_benchmark_and_share_no_class():
    assert {name: len(members) for name, members in NAMED_SETS.items()} == {
        "speed_limits": 8, "prohibitory": 4, "danger": 15, "mandatory": 8, "unique": 4, "ends": 4
    }  # fmt: skip
    assert sorted(index for members in NAMED_SETS.values() for index in members) == list(range(43))
    names_of = {group: [CLASS_NAMES[index] for index in members] for group, members in NAMED_SETS.items()}
    assert all(name.endswith("km/h") and name[0].isdigit() for name in names_of["speed_limits"])
    assert names_of["unique"] == ["priority road", "give way", "stop", "no entry"]
    assert all(name.startswith("end of") for name in names_of["ends"])
    assert {"no overtaking", "no trucks"} < set(names_of["prohibitory"])
    assert {"general caution", "road work", "wild animals"} < set(names_of["danger"])
    assert {"turn right", "keep left", "roundabout"} < set(names_of["mandatory"])


def test_class_names_are_as_many_as_there_are_classes_and_no_two_alike():
    for names, count in ((CLASS_NAMES, 43), (CIFAR10.class_names, 10), (CIFAR100.class_names, 100)):
        assert len(names) == len(set(names)) == count
