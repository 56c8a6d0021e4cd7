"""The one module that carries a detector: encoder, centre, scale and threshold, with the formulas of its spec."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfexplain.data.base import to_float
from cfexplain.detectors.base import DetectorSpec, LogProbs
from cfexplain.encoders.base import EncoderSpec
from cfexplain.types import ImageShape


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

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.spec.losses(self.embed(images), labels, self.centre)

    def log_probs(self, images: Tensor) -> LogProbs:
        return self.spec.log_probs(self.embed(images).float(), self.centre, self.scale)


def build_detector(spec: DetectorSpec, encoder: EncoderSpec, image_shape: ImageShape, seed: int) -> Detector:
    """A detector with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(spec, encoder, image_shape)


@torch.no_grad()
def in_batches(function, images: Tensor, device: torch.device | str | None = None, batch_size: int = 512) -> Tensor:
    """`function` of float batches of (N, C, H, W) uint8 images, its outputs (N, ...) joined on the CPU."""
    outputs = [function(to_float(batch.to(device) if device else batch)).cpu() for batch in images.split(batch_size)]
    return torch.cat(outputs) if outputs else torch.empty(0)


def logits_of(
    detector: Detector, images: Tensor, device: torch.device | str | None = None, batch_size: int = 512
) -> Tensor:
    """Unsaturated scores of (N, C, H, W) uint8 images: (N,) float32 on the CPU."""
    return in_batches(lambda batch: detector.log_probs(batch).logit.float(), images, device, batch_size)
