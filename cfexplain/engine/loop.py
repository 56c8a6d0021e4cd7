"""The training loop that every learner shares: step, watch the losses, report, save, stop when asked to."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cfexplain.engine import stopping
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.errors import FitError, Interrupted
from cfexplain.lazy import nn, Tensor, torch
from cfexplain.types import Tick


class Learner(ABC):
    """What is trained. Its randomness follows from seed and `steps_done`, so its state dict holds all that goes on.

    stage:  its name in reports.
    advice: what to do about a loss that is not finite.
    autocast_dtype: what `train` multiplies in, engine.runtime.autocast_dtype; None: float32.
    """

    stage: str
    advice: str
    images_per_step: int
    steps_done: int
    ranks: Ranks = ALONE
    device: torch.device
    autocast_dtype: torch.dtype | None = None

    @abstractmethod
    def step(self) -> dict[str, Tensor]:
        """One step; its losses, each a detached scalar."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What has a state: networks, optimisers, schedules."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {"steps_done": self.steps_done, **{name: part.state_dict() for name, part in self.parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.steps_done = state["steps_done"]


def train(
    learner: Learner,
    num_steps: int,
    log_every_steps: int,
    report: Callable[[Tick], None],
    *,
    on_step: Callable[[], None] = lambda: None,
    save: Callable[[], None] | None = None,
    save_every_steps: int = 0,
) -> None:
    """Train up to `num_steps`, from wherever the learner stands; in each of its ranks alike.

    A tick and `on_step` come before the save of their step: whatever a checkpoint counts as done is on disk by then,
    and what comes after it is done again by a run that continues.
    """
    started, first_step, ranks = time.perf_counter(), learner.steps_done, learner.ranks
    names: list[str] = []
    unseen: list[Tensor] = []  # losses since the last look at them: a look waits for the GPU
    with stopping.between_steps():
        while learner.steps_done < num_steps:
            with torch.autocast(learner.device.type, learner.autocast_dtype, learner.autocast_dtype is not None):
                losses = learner.step()
            step = learner.steps_done
            names = list(losses)
            unseen.append(torch.stack(list(losses.values())))

            stop = ranks.agreed_stop(stopping.requested())
            is_log_step = step % log_every_steps == 0 or step == num_steps
            is_saved = save is not None and (step % save_every_steps == 0 or step == num_steps or stop is not None)
            if is_log_step or is_saved:
                values = _looked_at(learner, names, ranks.mean(torch.stack(unseen)))
                unseen = []
            if is_log_step:
                rate = (step - first_step) * learner.images_per_step / (time.perf_counter() - started)
                report(Tick(stage=learner.stage, step=step, num_steps=num_steps, values=values, images_per_second=rate))
            on_step()
            if save is not None and is_saved:
                _check_weights(learner)
                save()
            if stop is not None:
                saved = "; its state is saved" if save is not None else ""
                raise Interrupted(f"stopped by {stop} after step {step} of the {learner.stage}{saved}")


def _looked_at(learner: Learner, names: list[str], losses: Tensor) -> dict[str, float]:
    """The newest of the (steps, parts) losses; FitError for the first step at which one is not finite."""
    is_bad = ~losses.isfinite().all(dim=1)
    if is_bad.any():
        index = int(is_bad.nonzero()[0])
        step = learner.steps_done - len(losses) + 1 + index
        parts = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, losses[index].tolist(), strict=True))
        raise FitError(f"a loss of the {learner.stage} is not finite at step {step}: {parts}; {learner.advice}")
    return dict(zip(names, losses[-1].tolist(), strict=True))


def _check_weights(learner: Learner) -> None:
    """A finite loss can still step to weights that are not: they must not replace a good checkpoint."""
    tensors = _tensors(learner.state_dict())
    finite = [value.isfinite().all() for value in tensors if value.is_floating_point()]
    if not torch.stack([value.cpu() for value in finite]).all():
        raise FitError(
            f"weights of the {learner.stage} are not finite after step {learner.steps_done}; {learner.advice}"
        )
    learner.ranks.check_same(tensors, f"weights of the {learner.stage} after step {learner.steps_done}")


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of gradient descent."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """No gradients to these networks' weights, and no power iteration of their spectral norms."""
    for network in networks:
        network.requires_grad_(False).eval()
    yield
    for network in networks:
        network.requires_grad_(True).train()
