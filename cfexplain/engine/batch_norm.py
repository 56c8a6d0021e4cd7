"""Batch norm over the images of all ranks. torch's SyncBatchNorm computes on GPUs alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfexplain.engine.distributed import Ranks


class SharedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics are those of the whole batch, of which each rank has an equal part."""

    ranks: Ranks

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not self.training:
            return super().forward(features)
        variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)  # (C,) of this rank
        variances, means = self.ranks.gathered(torch.stack([variance, mean])).unflatten(0, (-1, 2)).unbind(dim=1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        self._note(mean.detach(), variance.detach(), self.ranks.size * features.numel() // features.shape[1])
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        normalised = (features - _as_image(mean)) * _as_image(scale)
        return normalised if self.bias is None else normalised + _as_image(self.bias)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics as nn.BatchNorm2d keeps them, of `count` values a channel."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def share_batch_norms(network: nn.Module, ranks: Ranks) -> None:
    """Let every batch norm of the network see the whole batch; names and tensors stay. Alone, nothing changes."""
    if ranks.size == 1:
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _shared(child, ranks))


def _shared(norm: nn.BatchNorm2d, ranks: Ranks) -> SharedBatchNorm:
    assert norm.momentum is not None and norm.track_running_stats, norm
    new = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, affine=norm.affine)
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked, new.ranks = norm.num_batches_tracked, ranks
    return new.train(norm.training)


def _as_image(values: Tensor) -> Tensor:
    """(C,) -> (C, 1, 1)."""
    return values[:, None, None]
