"""Training in several processes (torch.distributed): every update is that of one process on the whole batch.

Each rank draws the same batch, whose randomness depends on (seed, step) alone, and works on its own part, under noise
of its own. The parts are of one size, so that means over them, averaged over the ranks, are means over the batch; what
is no mean of samples (statistics of batch norm, a distance of two distributions) is computed from gathered values. The
ranks hold the same weights at each step.

It is not DistributedDataParallel: that wraps one network with one forward a backward. Here three networks play against
each other, each in several forwards a step and frozen in others, and a loss needs the whole batch. One all-reduce of
all gradients before each optimiser step says the same in ten lines; what is lost is the overlap with the backward.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any

from cfexplain.errors import ConfigError, FitError
from cfexplain.lazy import dist, nn, Tensor, torch

PATIENCE = timedelta(days=1)  # whoever started the ranks notices a dead one; a first reading of images may take hours


class PeerLost(FitError):
    """Another rank is gone. Its own reason is the one to know."""


@dataclass(frozen=True, kw_only=True)
class RankOfRun:
    """A process among those that train together; local: among those on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def torchrun_rank(environment: Mapping[str, str] = os.environ) -> RankOfRun | None:
    """This process's, where torchrun or engine/launch.py started it as one of several."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(environment.get(name) for name in names) or int(environment["WORLD_SIZE"]) == 1:
        return None
    return RankOfRun(
        rank=int(environment["RANK"]), size=int(environment["WORLD_SIZE"]), local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
    )


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them; alone, every method gives back what it got.

    Rows are the first dimension of a tensor.
    """

    rank: int
    size: int

    def part(self, values: Tensor, *blocks: int) -> Tensor:
        """This rank's rows. blocks: numbers of consecutive rows, each of which is divided evenly; without any, all."""
        if self.size == 1:
            return values
        blocks = blocks or (len(values),)
        assert sum(blocks) == len(values) and all(block % self.size == 0 for block in blocks), (blocks, len(values))
        return torch.cat([block.chunk(self.size)[self.rank] for block in values.split(blocks) if len(block)])

    def gathered(self, values: Tensor) -> Tensor:
        """The rows of all ranks, in their order, on every rank; gradients flow back to the rank they came from."""
        if self.size == 1:
            return values
        return _gathering().apply(values, self)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, element by element, without a gradient."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        with _peers():
            dist.all_reduce(total)
        return total / self.size

    def average_gradients_of(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on each of its steps takes the mean of the ranks' gradients."""
        if self.size > 1:
            optimizer.register_step_pre_hook(lambda optimizer, *_: self._average_gradients(optimizer))

    def shared(self, value: Any) -> Any:
        """What rank 0 gives, a state dict or other plain values, on every rank; tensors come to the CPU."""
        if self.size == 1:
            return value
        buffer = io.BytesIO()
        torch.save(value, buffer)
        box = [buffer.getvalue() if self.rank == 0 else b""]
        with _peers():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=True)

    def agreed_stop(self, signal_name: str | None) -> str | None:
        """A signal that asks any rank to stop, so that all stop after the same step."""
        if self.size == 1:
            return signal_name
        number = torch.tensor(0 if signal_name is None else signal.Signals[signal_name].value)  # CPU: no wait for a GPU
        with _peers():
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return signal.Signals(int(number)).name if number else None

    def check_same(self, tensors: Sequence[Tensor], what: str) -> None:
        """FitError where the ranks' tensors are not equal, bit for bit."""
        if self.size == 1:
            return
        content = hashlib.sha256()
        for tensor in tensors:
            content.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
        digest = torch.tensor(int.from_bytes(content.digest()[:8], "big", signed=True))
        digests = [torch.zeros_like(digest) for _ in range(self.size)]
        with _peers():
            dist.all_gather(digests, digest)
        if any(not other.equal(digests[0]) for other in digests):
            raise FitError(f"{what} differ between the processes, which must run on equal hardware and versions")

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = mean.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients)])


ALONE = Ranks(rank=0, size=1)


@cache
def _gathering() -> type[torch.autograd.Function]:
    class Gathering(torch.autograd.Function):
        """Every rank's loss depends on every rank's values: backward sums what the ranks want of each."""

        @staticmethod
        def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
            ctx.ranks = ranks
            parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(ranks.size)]
            with _peers():
                dist.all_gather(parts, values.contiguous())
            return torch.cat(parts)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
            total = gradient.contiguous().clone()
            with _peers():
                dist.all_reduce(total)
            return total.chunk(ctx.ranks.size)[ctx.ranks.rank], None

    return Gathering


@contextmanager
def joined(rank: int, size: int, init_method: str, device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks. init_method: env:// as torchrun sets it, or a file:// that the ranks share.

    Tensors on the CPU go through gloo, those on a GPU through nccl.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _peers():
        dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=size, timeout=PATIENCE)
    yield Ranks(rank=rank, size=size)
    dist.destroy_process_group()  # after a failure it could wait for peers that are gone


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's, and its subclass DistBackendError of nccl
        raise PeerLost(f"a process of this run is gone: {str(error).splitlines()[0]}") from error


def share_batch_norms(network: nn.Module, ranks: Ranks) -> None:
    """Let every batch norm of the network see the whole batch, on GPUs and CPUs alike: torch's SyncBatchNorm computes
    on GPUs alone. Names and tensors stay; alone, nothing changes. ConfigError for a norm that does more than norms do.
    """
    for module in network.modules() if ranks.size > 1 else ():
        if isinstance(module, nn.BatchNorm2d) and type(module) is not nn.BatchNorm2d:
            if module.training:  # timm's have an activation inside; frozen ones need not be shared
                raise ConfigError(f"a network with {type(module).__name__} is trained by one process alone: set "
                                  "runtime.processes=1, or encoder.trainable=false")
        elif isinstance(module, nn.BatchNorm2d):
            assert module.momentum is not None and module.track_running_stats, module
            module.forward = partial(_shared_batch_norm, module, ranks)


def _shared_batch_norm(norm: nn.BatchNorm2d, ranks: Ranks, features: Tensor) -> Tensor:
    """nn.BatchNorm2d with the statistics of the whole batch, of which each rank has an equal part."""
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, features)
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)  # (C,) of this rank
    variances, means = ranks.gathered(torch.stack([variance, mean])).unflatten(0, (-1, 2)).unbind(dim=1)
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
    count = ranks.size * features.numel() // features.shape[1]
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.detach(), norm.momentum)
        norm.running_var.lerp_(variance.detach() * (count / (count - 1)), norm.momentum)
    scale = (variance + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    normalised = (features - mean[:, None, None]) * scale[:, None, None]
    return normalised if norm.bias is None else normalised + norm.bias[:, None, None]
