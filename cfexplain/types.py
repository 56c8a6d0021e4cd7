"""Values that travel between the layers. Torch is named for its types only: a config check need not load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from cfexplain.lazy import Tensor, torch

ImageShape = tuple[int, int, int]  # C, H, W
Values = TypeVar("Values")
# (N, C, H, W) uint8 normal images and a generator on their device -> pseudo-anomalies of them, (N, H, W) bool masks.
PairMaker = Callable[["Tensor", "torch.Generator"], tuple["Tensor", "Tensor"]]

NORMAL, ANOMALOUS = 0, 1
MAX_EXPLAINED_EXPOSURE = 500


def class_name(index: int, names: Sequence[str]) -> str:
    """Empty for an image of none of the classes, -1, or where they have no names."""
    return names[index] if 0 <= index < len(names) else ""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images with what is known of each.

    images:  (N, C, H, W) uint8, on the CPU.
    labels:  (N,) int64, 0 normal, 1 anomalous.
    classes: (N,) int64, index into Splits.class_names; -1 where the image is of none of them (exposure).
    ids:     N stable names, unique within a dataset ("test/00042").
    masks:   (N, H, W) bool, True where the defect is; None where the dataset marks none.
    is_mapped: the images lie in a memory-mapped file, not in memory, and are to stay there.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    ids: tuple[str, ...]
    masks: Tensor | None = None
    is_mapped: bool = False

    def __post_init__(self) -> None:
        sizes = {len(self.images), len(self.labels), len(self.classes), len(self.ids)}
        assert len(sizes) == 1, f"images, labels, classes and ids differ in length: {sizes}"
        assert self.masks is None or len(self.masks) == len(self.ids), "masks and ids differ in length"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> ImageSet:
        """A view, which leaves mapped images where they are."""
        return replace(self, ids=self.ids[rows], **self._rows(rows))

    def select(self, indices: Tensor) -> ImageSet:
        """The images at `indices` ((M,) int64, or an (N,) bool mask), in that order.

        Neighbours in a row are a view, others are copied into memory.
        """
        if str(indices.dtype) == "torch.bool":
            indices = indices.nonzero().flatten()
        numbers = indices.tolist()
        if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return self[numbers[0] : numbers[0] + len(numbers)]
        return replace(self, ids=tuple(self.ids[i] for i in numbers), is_mapped=False, **self._rows(indices))

    def first(self, count: int) -> ImageSet:
        """A view; all where there are fewer."""
        return self[:count]

    def _rows(self, rows: slice | Tensor) -> dict[str, Tensor | None]:
        masks = None if self.masks is None else self.masks[rows]
        return {"images": self.images[rows], "labels": self.labels[rows], "classes": self.classes[rows], "masks": masks}

    def images_for(self, device: torch.device) -> Tensor:
        """The images where batches are drawn from: on the device, or in their file where they are mapped."""
        return self.images if self.is_mapped else self.images.to(device)


@dataclass(frozen=True, kw_only=True)
class FactorRule:
    """What makes an image of a coloured dataset normal: its colour OR its shape is one of the normal ones.

    Class index of such a dataset: shape * len(colour_names) + colour. `palette` holds each colour as RGB, 0-255.
    """

    shape_names: tuple[str, ...]
    colour_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    normal_shapes: tuple[int, ...]
    normal_colours: tuple[int, ...]

    def class_of(self, shape: int, colour: int) -> int:
        return shape * len(self.colour_names) + colour


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may be done to a training image without changing what it shows.

    flip:         mirrored left to right, every second time.
    crop_padding: moved by up to this many pixels in both directions, the border filled by reflection.
    rotation:     turned by up to so many degrees either way, the corners filled by reflection.
    exposure:     brightness multiplied by 1 - this to 1 + this.
    """

    flip: bool
    crop_padding: int
    rotation: float = 0.0
    exposure: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A dataset cut for anomaly detection.

    train:     normal images that detector and generator learn from.
    held_out:  normal images kept from training, for calibration, thresholds and selection.
    exposure:  outlier exposure, label 1; None where there is none.
    test:      normal and anomalous images; nothing but metrics and pictures may look at them.
    reference: training images of every class with their classes, for the metrics alone (feature network, oracle).
    factors:   the normal rule where the dataset knows its factors, else None.
    augmentation: of training batches; None leaves images as they are.
    fresh:     makes new exposure images of normal ones for every batch; None: `exposure` is what is learned from.
    digests:   sha256 of the file behind an id, of files that cannot be read too; empty where images are no files.
    """

    train: ImageSet
    held_out: ImageSet
    exposure: ImageSet | None
    test: ImageSet
    reference: ImageSet
    class_names: tuple[str, ...]
    factors: FactorRule | None
    augmentation: Augmentation | None = None
    fresh: PairMaker | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_shape(self) -> ImageShape:
        return tuple(self.train.images.shape[1:])  # type: ignore[return-value]

    @property
    def test_normals(self) -> ImageSet:
        return self.test.select(self.test.labels == NORMAL)

    @property
    def test_anomalies(self) -> ImageSet:
        return self.test.select(self.test.labels == ANOMALOUS)

    @property
    def has_test_anomalies(self) -> bool:
        return bool((self.test.labels == ANOMALOUS).any())

    @property
    def explained(self) -> ImageSet:
        """What `explain` explains: the test anomalies or, where there are none, up to 500 exposure images."""
        if self.has_test_anomalies or self.exposure is None:
            return self.test_anomalies
        return self.exposure.first(MAX_EXPLAINED_EXPOSURE)


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """Counterfactuals of N images for A alpha bins (bin 0 is alpha = 0) and K concepts, as they are saved: 8 bit.

    sources:       the N images explained.
    images:        (N, A, K, C, H, W) uint8.
    logits:        (N, A, K) float32, the detector's unsaturated score of those 8-bit images.
    source_logits: (N,) float32.
    threshold:     the logit at or below which an image counts as normal.
    """

    sources: ImageSet
    images: Tensor
    logits: Tensor
    source_logits: Tensor
    threshold: float

    @property
    def counterfactuals(self) -> Tensor:
        """(N, K, C, H, W) uint8, the images for alpha = 0."""
        return self.images[:, 0]

    @property
    def num_concepts(self) -> int:
        return self.images.shape[2]

    def select(self, indices: Tensor) -> Explanations:
        """Of the sources at (M,) int64 indices, in that order."""
        return replace(
            self, sources=self.sources.select(indices), images=self.images[indices], logits=self.logits[indices],
            source_logits=self.source_logits[indices],
        )


def joined(parts: Sequence[Values]) -> Values:
    """Tensors and tuples one after another, in dataclasses too; of anything else the first, as all are the same."""
    first = parts[0]
    if is_dataclass(first):
        values = {field.name: joined([getattr(part, field.name) for part in parts]) for field in fields(first)}
        return replace(first, **values)
    if isinstance(first, tuple):
        return tuple(value for part in parts for value in part)
    return torch.cat(list(parts)) if isinstance(first, Tensor) else first


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One progress report of a training loop."""

    stage: str
    step: int
    num_steps: int
    values: dict[str, float]
    images_per_second: float

    @property
    def line(self) -> dict[str, Any]:
        """Of history.jsonl: what was computed, no clock readings."""
        return {"stage": self.stage, "step": self.step, "num_steps": self.num_steps, **self.values}
