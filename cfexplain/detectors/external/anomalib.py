"""A model of anomalib (Akcay et al., 2022) as a network that lets gradients through.

Most of its models compute features under torch.no_grad, so nothing could be learnt from their score; here that switch
is out of order while they run. Of a whole anomalib model its pre-processor and its torch model are taken; the
post-processor is left out, for it clamps scores to [0, 1], and what is clamped has no gradient.
"""

from __future__ import annotations

from typing import Any

from cfexplain.errors import ConfigError
from cfexplain.lazy import nn, Tensor, torch


class AnomalibScore(nn.Module):
    """(N, C, H, W) in [0, 1] -> (N,): pred_score or, where a model gives none, the maximum of anomaly_map."""

    def __init__(self, model: nn.Module, source: str) -> None:
        super().__init__()
        is_whole = hasattr(model, "post_processor")  # Lightning's module around the torch model
        self.pre_processor = getattr(model, "pre_processor", None) if is_whole else None
        self.model = model.model if is_whole else model
        self.source = source

    def forward(self, images: Tensor) -> Tensor:
        with _gradients_kept():
            output: Any = self.model(images if self.pre_processor is None else self.pre_processor(images))
        score, anomaly_map = getattr(output, "pred_score", None), getattr(output, "anomaly_map", None)
        if score is None and anomaly_map is None:
            raise ConfigError(f"{self.source} gives no pred_score and no anomaly_map, as models of anomalib do; with "
                              "another model leave detector.kind out")
        return anomaly_map.flatten(1).amax(dim=1) if score is None else score.flatten()


def _gradients_kept() -> Any:
    """A mode in which whoever switches gradients off, or on, is not heard: it stays as it was outside."""

    class GradientsKept(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))

    return GradientsKept()
