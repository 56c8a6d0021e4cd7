"""Training of the flow that generator=flow_edit edits with, and its edits of the images of the game."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

from cfexplain.data.batches import to_float, to_uint8, TrainingImages
from cfexplain.detectors.base import batched_on_cpu
from cfexplain.engine.distributed import ALONE, Ranks
from cfexplain.engine.loop import Learner, take_step
from cfexplain.engine.seeding import derived_seed, step_generator
from cfexplain.errors import ConfigError
from cfexplain.generators.flow_edit import EXPOSURE, Flow, FlowEdit, FlowEditor, mix, NO_LABEL, NORMAL, NUM_TIMES
from cfexplain.lazy import Tensor, torch
from cfexplain.types import Splits

EMA_DECAY = 0.995
WARM_UP_STEPS = 50
EDITED_AT_A_TIME = 64
NOISIEST_WEIGHT = 10.0  # of a prediction from nearly no noise, as a velocity counts: 1 / t, at most this


class FlowLearner(Learner):
    """The flow, its optimiser and its average; a step predicts images of both kinds from what is mixed of them."""

    stage = "flow"
    advice = "lower generator.learning_rate"

    def __init__(
        self, spec: FlowEdit, splits: Splits, seed: int, device: torch.device, ranks: Ranks = ALONE,
    ) -> None:
        if splits.exposure is None or splits.fresh is not None:
            raise ConfigError("generator=flow_edit edits the exposure images once, before the game: take an exposure "
                              "of other images, not one that is made of normal ones for every batch")
        self.spec, self.splits, self.seed, self.device, self.ranks = spec, splits, seed, device, ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "flow"))
            self.flow = Flow(splits.image_shape[0], spec).to(device=device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.flow).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=spec.learning_rate, fused=True)
        ranks.average_gradients_of(self.optimizer)
        self.data = TrainingImages(splits, device)
        self.images_per_step, self.steps_done = spec.batch_size, 0

    def step(self) -> dict[str, Tensor]:
        """Half normal, half exposure images, each at a time of its own, some without their label."""
        generator, half = step_generator(self.seed, self.steps_done, "flow", self.device), self.spec.batch_size // 2
        drawn = self.data.batch(self.data.draw(half, generator), generator).images
        labels = torch.tensor([NORMAL, EXPOSURE], device=self.device).repeat_interleave(half)
        is_dropped = torch.rand(2 * half, generator=generator, device=self.device) < self.spec.label_dropout
        times = torch.randint(1, NUM_TIMES, (2 * half,), generator=generator, device=self.device)
        noise = torch.randn(drawn.shape, generator=generator, device=self.device)
        images, labels, times, noise = (
            self.ranks.part(part, half, half)
            for part in (to_float(drawn), labels.masked_fill(is_dropped, NO_LABEL), times, noise)
        )
        predicted = self.flow(mix(images, noise, times).contiguous(memory_format=torch.channels_last), times, labels)
        errors = (predicted.float() - images).square().mean(dim=(1, 2, 3))
        loss = (errors * (NUM_TIMES / times).clamp_max(NOISIEST_WEIGHT)).mean()
        self.optimizer.param_groups[0]["lr"] = self._learning_rate()
        take_step(self.optimizer, loss)
        self.steps_done += 1
        decay = min(EMA_DECAY, self.steps_done / (9 + self.steps_done))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.flow.parameters()), 1 - decay)
        return {"error": errors.mean().detach(), "loss": loss.detach()}

    def _learning_rate(self) -> float:
        """A warm-up, and half a cosine down to nothing."""
        falling = 0.5 * (1 + math.cos(math.pi * self.steps_done / self.spec.steps))
        return self.spec.learning_rate * min(1, (self.steps_done + 1) / WARM_UP_STEPS) * falling

    def fitted(self) -> FlowEditor:
        return FlowEditor(self.average, self.spec, self.splits.image_shape).to(self.device).eval()

    @property
    def parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("flow", "average", "optimizer")}


def edited_exposure(editor: FlowEditor, splits: Splits, seed: int, device: torch.device) -> dict[str, Tensor]:
    """rows: (N,) int64, exposure images that were drawn, and edited: (N, C, H, W) uint8, psi of them.

    Once before the game, as the flow is frozen.
    """
    generator = step_generator(seed, 0, "exposure images to be edited")
    rows = torch.randperm(len(splits.exposure), generator=generator)[: editor.spec.num_edited].sort().values
    images = splits.exposure.select(rows).images
    edited = batched_on_cpu(lambda batch: to_uint8(editor(batch)), images, device, EDITED_AT_A_TIME)
    return {"rows": rows, "edited": edited}


def play_after(splits: Splits, rows: Tensor, edited: Tensor) -> Splits:
    """What the game is played on: psi(x) of exposure images, and normal ones as they are."""
    return replace(splits, exposure=replace(splits.exposure.select(rows), images=edited))
