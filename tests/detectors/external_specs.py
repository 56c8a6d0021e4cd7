"""The values of conf/detector/external.yaml with others in their place, and images to try a detector on."""

import dataclasses
from pathlib import Path

import torch
import yaml

from cfexplain.config import build
from cfexplain.detectors.base import DetectorSpec
from cfexplain.detectors.external.spec import External
from cfexplain.types import ImageSet, Splits

CONF = Path(__file__).resolve().parents[2] / "conf" / "detector" / "external.yaml"


held: list[torch.nn.Module] = []


def newest() -> torch.nn.Module:
    """A factory: the network that a test put last into `held`."""
    return held[-1]


def external(**values) -> External:
    """`path` or `factory` among the values; without either the factory is `newest`."""
    node = yaml.safe_load(CONF.read_text(encoding="utf-8")) | {"sha256": None, "factory": f"{__name__}:newest"}
    spec = build(node, DetectorSpec)
    if "path" in values:
        values = {"factory": None, **values}
    return dataclasses.replace(spec, **values)


def pictures(count: int, seed: int, is_bright: bool = False) -> torch.Tensor:
    """(count, 3, 16, 16) uint8, dark noise; bright ones carry a white bar, more or less white."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 80, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    if is_bright:
        images[:, :, :, 4:8] += torch.randint(100, 170, (count, 1, 1, 1), generator=generator, dtype=torch.uint8)
    return images


def image_set(images: torch.Tensor, label: int) -> ImageSet:
    labels = torch.full((len(images),), label)
    return ImageSet(images=images, labels=labels, classes=labels, ids=tuple(map(str, range(len(images)))))


def bar_splits() -> Splits:
    """Dark images; exposure and test anomalies carry a bar."""
    train = image_set(pictures(40, 0), 0)
    return Splits(
        train=train, held_out=image_set(pictures(200, 1), 0), exposure=image_set(pictures(100, 2, True), 1),
        test=image_set(pictures(40, 3, True), 1), reference=train, class_names=("dark", "bar"), factors=None,
    )


class Brightness(torch.nn.Module):
    """Mean of each image: what a plain detector of bars would be."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))
