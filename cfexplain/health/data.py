"""Health of the data: which public sets and pretrained weights are at hand, and where a missing one belongs.

Every dataset and exposure of conf/ that has a root is looked for. That its files are there is all that is checked:
reading them takes longer. Of a missing set its own loader says what to do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cfexplain import config as configs
from cfexplain.data.datasets.base import DatasetSpec
from cfexplain.data.reading.cifar import CIFAR10, CIFAR100
from cfexplain.data.datasets.gtsrb import PACK
from cfexplain.data.datasets.mvtec import OFFICIAL_FOLDER
from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.reading.idx import EMNIST_LETTERS, MNIST
from cfexplain.encoders.torchvision import MODELS
from cfexplain.errors import DataError
from cfexplain.health.check import Check, Mark
from cfexplain.lazy import torchvision

_MNIST = [[f"MNIST/raw/{file}*" for file in MNIST.files]]
# Signs of a set below its root: one of these lists, of which every pattern matches something.
SIGNS = {
    "mnist": _MNIST,
    "cmnist": _MNIST,
    "emnist": [[f"EMNIST/raw/{file}*" for file in EMNIST_LETTERS.files]],
    "fashion": [["FashionMNIST/raw/train-images-idx3-ubyte*"]],
    "cifar10": [[CIFAR10.folder], ["train/airplane"], ["*/train/airplane"]],
    "cifar100": [[CIFAR100.folder], ["train/apple"], ["*/train/apple"]],
    "gtsrb": [["gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test", "gtsrb/GT-final_test.csv"], [PACK]],
    "mvtec": [["*/train/good"], [f"{OFFICIAL_FOLDER}/*/train/good"]],
    "omniglot": [["images_background*"], ["omniglot-py/images_background*"]],
}
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # where torch-fidelity keeps it in torch's cache


def data_checks(root: Path, cache_dir: Path) -> Iterator[Check]:
    """root: takes the place of `data` in the roots of conf/. cache_dir: what a loader may write to."""
    yield Check("data glyphs", Mark.ok, "rendered on first use, nothing to download")
    for group in ("dataset", "exposure"):
        for file in sorted((configs.conf_dir() / group).glob("*.yaml")):
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
            if values.get("root") not in (None, "???"):
                yield _set_check(group, file.stem, values, _root(root, values["root"]), cache_dir)


def weight_checks(torch_cache: Path) -> Iterator[Check]:
    """torch_cache: folder of the files that torch has fetched."""
    yield _encoder_weights_check(torch_cache)
    yield _inception_check(torch_cache)


def _root(root: Path, default: str) -> Path:
    """data/mvtec -> <root>/mvtec, or root itself where that is not there."""
    inner = root.joinpath(*Path(default).parts[1:])
    return inner if inner.exists() or not root.is_dir() or str(root) == Path(default).parts[0] else root


def _set_check(group: str, name: str, values: dict[str, Any], root: Path, cache_dir: Path) -> Check:
    label = f"{'data' if group == 'dataset' else group} {name}"
    signs = SIGNS.get(name)
    if signs is None and root.is_dir():
        return Check(label, Mark.ok, f"{root} is there (not looked into)")
    if signs and any(all(any(root.glob(pattern)) for pattern in patterns) for patterns in signs):
        return Check(label, Mark.ok, f"found in {root}")
    values = {key: value for key, value in values.items() if key != "defaults"}
    values |= {"root": str(root), "download": False} if "download" in values else {"root": str(root)}
    try:
        _load(group, values, str(cache_dir))
    except DataError as error:
        return Check(label, Mark.note, "not found", str(error))
    return Check(label, Mark.ok, f"found in {root}")


def _load(group: str, values: dict[str, Any], cache_dir: str) -> None:
    if group == "dataset":
        nothing = configs.build({"_target_": "cfexplain.data.exposures.none.Nothing", "limit": None, "seed": 0},
                                ExposureSpec, "exposure")
        configs.build(values | {"cache_dir": cache_dir}, DatasetSpec, group).load(nothing)
        return
    images = np.zeros((1, 3, 32, 32), dtype=np.uint8)
    request = ExposureRequest(normals=images, learned=images, others=None, class_names=(), cache_dir=cache_dir)
    configs.build(values, ExposureSpec, group).pictures(request)


def _encoder_weights_check(torch_cache: Path) -> Check:
    names = {model: torchvision.models.get_model_weights(model).DEFAULT.url.rpartition("/")[2] for model in MODELS}
    found = [model for model, name in names.items() if (torch_cache / name).is_file()]
    if found:
        return Check("encoder weights", Mark.ok, f"{', '.join(found)} in {torch_cache}")
    return Check("encoder weights", Mark.note, f"none in {torch_cache}",
                 "Only encoder.weights=default needs them, and fetches them; without network put the file there, "
                 f"for resnet18 {names['resnet18']}")


def _inception_check(torch_cache: Path) -> Check:
    """Of metric.fid.features=inception."""
    values = yaml.safe_load((configs.conf_dir() / "metric" / "fid.yaml").read_text(encoding="utf-8"))["fid"]
    file = Path(values["weights_path"] or torch_cache / INCEPTION_FILE)
    is_needed = values["features"] == "inception"
    missing = [] if file.is_file() else [f"no weights at {file}"]
    if importlib.util.find_spec("torch_fidelity") is None:
        missing.append("no package torch-fidelity")
    if not missing:
        return Check("inception weights", Mark.ok, str(file))
    return Check("inception weights", Mark.problem if is_needed else Mark.note, ", ".join(missing),
                 "Only metric.fid.features=inception needs them: pip install torch-fidelity tqdm, and without network "
                 "set metric.fid.weights_path to the file")
