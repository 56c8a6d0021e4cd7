"""Values that travel between the layers. Torch is named for its types only: a config check need not load it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ImageShape = tuple[int, int, int]  # C, H, W

NORMAL, ANOMALOUS = 0, 1


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images with what is known of each.

    images:  (N, C, H, W) uint8, on the CPU.
    labels:  (N,) int64, 0 normal, 1 anomalous.
    classes: (N,) int64, index into Splits.class_names; -1 where the image is of none of them (exposure).
    ids:     N stable names, unique within a dataset ("test/00042").
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.images), len(self.labels), len(self.classes), len(self.ids)}
        assert len(sizes) == 1, f"images, labels, classes and ids differ in length: {sizes}"

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Tensor) -> ImageSet:
        """The images at `indices` ((M,) int64, or an (N,) bool mask), in that order."""
        if str(indices.dtype) == "torch.bool":
            indices = indices.nonzero().flatten()
        ids = tuple(self.ids[i] for i in indices.tolist())
        return replace(
            self, images=self.images[indices], labels=self.labels[indices], classes=self.classes[indices], ids=ids
        )


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
class Splits:
    """A dataset cut for anomaly detection.

    train:     normal images that detector and generator learn from.
    held_out:  normal images kept from training, for calibration, thresholds and selection.
    exposure:  outlier exposure, label 1; None where there is none.
    test:      normal and anomalous images; nothing but metrics and pictures may look at them.
    reference: training images of every class with their classes, for the judges alone (feature network, oracle).
    factors:   the normal rule where the dataset knows its factors, else None.
    """

    train: ImageSet
    held_out: ImageSet
    exposure: ImageSet | None
    test: ImageSet
    reference: ImageSet
    class_names: tuple[str, ...]
    factors: FactorRule | None

    @property
    def image_shape(self) -> ImageShape:
        return tuple(self.train.images.shape[1:])  # type: ignore[return-value]

    @property
    def test_normals(self) -> ImageSet:
        return self.test.select(self.test.labels == NORMAL)

    @property
    def test_anomalies(self) -> ImageSet:
        return self.test.select(self.test.labels == ANOMALOUS)


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


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One progress report of a training loop."""

    stage: str
    step: int
    num_steps: int
    values: dict[str, float]
    images_per_second: float
