"""What a detector is: a spec (values, loss and score formulas) and one network module that carries them.

A detector file needs no torch at import: its formulas work on the tensors they are given. `build_detector` joins
spec and encoder. One that is not trained here (external.py) brings its own network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cfexplain.checks import check_at_least, check_positive
from cfexplain.data.batches import to_float
from cfexplain.encoders.base import EncoderSpec
from cfexplain.encoders.pretrained import FeatureMaps
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape

LINEAR_UP_TO = 10.0


@dataclass(frozen=True)
class LogProbs:
    """A score in log space: (N,) log phi and (N,) log(1 - phi), exact where phi itself would round to 0 or 1."""

    log_anomalous: Tensor
    log_normal: Tensor

    @property
    def score(self) -> Tensor:
        """phi, (N,) in [0, 1]."""
        return self.log_anomalous.exp()

    @property
    def logit(self) -> Tensor:
        """log phi - log(1 - phi), (N,): a monotone score that does not saturate; for AuROC, thresholds and matching."""
        return self.log_anomalous - self.log_normal


@dataclass(frozen=True, kw_only=True)
class DetectorSpec(ABC):
    """What every detector has: a network, and a score made of its outputs.

    is_trained: False for a detector that takes no steps: it comes with its weights (external/calibration.py) or is
                fitted at once (gaussian.py).
    has_score_map: whether it scores each place of an image too.
    """

    needs_exposure: ClassVar[bool]
    is_trained: ClassVar[bool] = True
    has_score_map: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def check_allowed(self, allow_custom_code: bool) -> None:
        """ConfigError for a spec that would run code from outside cfexplain without being allowed to."""

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """Size D of the network's output."""

    @property
    @abstractmethod
    def second(self) -> LearnedDetectorSpec:
        """What to train where an independent second detector is wanted: of the same kind, if that can be trained."""

    @abstractmethod
    def build_network(self, encoder: EncoderSpec, image_shape: ImageShape) -> nn.Module:
        """(N, C, H, W) images in [-1, 1] -> (N, D)."""

    @abstractmethod
    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        """(N, D) network outputs, (D,) centre and the calibrated scale () -> log phi, log(1 - phi)."""

    def copy_files(self, folder: Path) -> None:
        """Put beside a run's checkpoints what the network is read from; most need their weights alone."""

    def with_files_in(self, folder: Path) -> DetectorSpec:
        """The same detector, read from what `copy_files` put there."""
        return self


@dataclass(frozen=True, kw_only=True)
class LearnedDetectorSpec(DetectorSpec):
    """A detector that is trained here: an encoder under the formulas of a loss and a score.

    embedding_dim: size of the encoder's output.
    steps, batch_size, learning_rate, weight_decay: Adam; the rate falls tenfold after 60 % and 85 % of the steps.
    """

    has_bias: ClassVar[bool] = True  # False: no biases and an affine-free batch norm, against collapse

    embedding_dim: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_positive(self, "embedding_dim", "steps", "batch_size", "learning_rate")
        check_at_least(self, weight_decay=0)

    @property
    def output_dim(self) -> int:
        """Size of the encoder's output, 1 where it is a logit."""
        return self.embedding_dim

    @property
    def second(self) -> LearnedDetectorSpec:
        return self

    def build_network(self, encoder: EncoderSpec, image_shape: ImageShape) -> nn.Module:
        return encoder.build(image_shape, self.output_dim, self.has_bias)

    def losses(self, outputs: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
        """(N, D) encoder outputs, (N,) labels 0/1, (D,) centre -> (N,) losses: the cross-entropy of phi."""
        probs = self.log_probs(outputs, centre, torch.ones_like(centre[0]))
        return -probs.log_normal.where(labels == 0, probs.log_anomalous)

    def calibrated_scale(self, outputs: Tensor, centre: Tensor) -> float:
        """The scale that `log_probs` divides by, from the outputs of held-out normals; 1 where none is needed."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class ScoringSpec(DetectorSpec):
    """A detector that takes no steps here and gives one number s an image, (N, 1).

    phi(x) = sigmoid(l), l = (s(x) - centre) / scale, both from held-out normals. Beyond |l| = 10, where phi is 0 or 1
    to four digits, l grows with the logarithm: a score may have any tail.

    stand_in: is trained where an independent second detector is wanted.
    """

    needs_exposure = False
    is_trained = False

    stand_in: LearnedDetectorSpec

    @property
    def output_dim(self) -> int:
        return 1

    @property
    def second(self) -> LearnedDetectorSpec:
        return self.stand_in

    def log_probs(self, outputs: Tensor, centre: Tensor, scale: Tensor) -> LogProbs:
        return sigmoid_log_probs(compressed((outputs[:, 0] - centre[0]) / scale))


def sigmoid_log_probs(logits: Tensor) -> LogProbs:
    """phi = sigmoid(l), and 1 - phi = sigmoid(-l)."""
    return LogProbs(F.logsigmoid(logits), F.logsigmoid(-logits))


def compressed(logits: Tensor) -> Tensor:
    """l up to |l| = 10, from there 10 (1 + log(|l| / 10)) with its sign: smooth, increasing, nowhere flat."""
    size = logits.abs().clamp_min(LINEAR_UP_TO) / LINEAR_UP_TO
    return logits / size * (1 + size.log())


def distance_log_probs(distances: Tensor, eps: float = 1e-6) -> LogProbs:
    """phi = 1 - exp(-d) of (N,) distances from the centre, where log phi would be log 0: eps bounds it."""
    return LogProbs(distances.clamp_min(eps).neg().expm1().neg().log(), -distances)


class Detector(nn.Module):
    """Scores images; `threshold` is the logit of the 95 % quantile of held-out normals, set by fitting."""

    centre: Tensor
    scale: Tensor
    threshold: Tensor

    def __init__(self, spec: DetectorSpec, encoder: EncoderSpec, image_shape: ImageShape) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = spec.build_network(encoder, image_shape)
        self.register_buffer("centre", torch.zeros(spec.output_dim))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(0.0))

    def embed(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, D)."""
        return self.encoder(images)

    @property
    def has_feature_maps(self) -> bool:
        return isinstance(getattr(self.encoder, "features", None), FeatureMaps)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) in [-1, 1] -> a map (N, F, H', W') of each layer of a network with given weights."""
        return self.encoder.features(images)

    def score_map(self, images: Tensor) -> Tensor | None:
        """(N, C, H, W) in [-1, 1] -> (N, H, W), higher where an image is less normal; None from most detectors."""
        return self.encoder.score_map(images) if self.spec.has_score_map else None

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.spec.losses(self.embed(images).float(), labels, self.centre)

    def log_probs(self, images: Tensor) -> LogProbs:
        return self.spec.log_probs(self.embed(images).float(), self.centre, self.scale)


def build_detector(spec: DetectorSpec, encoder: EncoderSpec, image_shape: ImageShape, seed: int) -> Detector:
    """A detector with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(spec, encoder, image_shape)
    return detector.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest in


@no_grad
def batched_on_cpu(function, images: Tensor, device: torch.device | str | None = None, batch_size: int = 512) -> Tensor:
    """`function` of float batches of (..., C, H, W) uint8 images, its outputs of each, (..., more), on the CPU."""
    batches = images.reshape(-1, *images.shape[-3:]).split(batch_size)
    outputs = torch.cat([function(to_float(batch.to(device) if device else batch)).cpu() for batch in batches])
    return outputs.reshape(*images.shape[:-3], *outputs.shape[1:])


def logits_of(detector: Detector, images: Tensor, device: torch.device | str | None = None) -> Tensor:
    """Unsaturated scores of (..., C, H, W) uint8 images: (...) float32 on the CPU."""
    return batched_on_cpu(lambda batch: detector.log_probs(batch).logit.float(), images, device)
