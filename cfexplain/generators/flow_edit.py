"""The paper's second generator, a diffusion edit before the game: G(x, a, k) = G'(psi(x), a, k).

psi edits an image towards the normal ones as DiffEdit does (Couairon et al., 2023), with a rectified flow (Liu et al.,
2023) that is trained on the run's own images and labels in the place of a model of text and images. The detector's
score and the concept enter through G', which is trained in the game on what psi draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.checks import check_at_least, check_between, check_positive
from cfexplain.engine.seeding import step_generator
from cfexplain.generators.base import GeneratorSpec, TrainedGeneratorSpec
from cfexplain.generators.unet import UnetBody
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape

NUM_TIMES = 10  # from an image, 0, to noise, 1: the flow knows those between, and an edit goes from one to the next
NORMAL, EXPOSURE, NO_LABEL = range(3)


@dataclass(frozen=True, kw_only=True)
class FlowEdit(GeneratorSpec):
    """G' is a generator of the game, `editor`; all else is the flow's.

    steps, batch_size, learning_rate: of the flow's training. label_dropout: share of its images without a label.
    patch, width, num_downsamplings, head_width: of its network, a U-Net as generator=unet is.
    num_edited:     exposure images that are edited for the game, at most.
    strength:       how far to noise an image is taken, 0 to 1, before it is drawn again as a normal one.
    guidance:       how many times the step from no label to the normal one is taken; 1: once.
    num_maps:       of noise, over which the difference between the labels is averaged: the mask.
    mask_level:     times the image's mean difference, above which a pixel is edited; 0: all of the image is. DiffEdit's
                    is 1.5: it clamps at 3 times the mean and cuts at half of that.
    """

    is_trained = True

    editor: TrainedGeneratorSpec
    steps: int
    batch_size: int
    learning_rate: float
    label_dropout: float
    patch: int
    width: int
    num_downsamplings: int
    head_width: int
    num_edited: int
    strength: float
    guidance: float
    num_maps: int
    mask_level: float

    def __post_init__(self) -> None:
        check_positive(
            self, "steps", "learning_rate", "patch", "width", "num_downsamplings", "head_width", "num_edited",
            "guidance", "num_maps",
        )
        check_at_least(self, batch_size=2, mask_level=0)
        check_between(self, 0, 1, "label_dropout")
        check_between(self, 1 / NUM_TIMES, 1 - 1 / NUM_TIMES, "strength")

    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        return FlowEdited(
            FlowEditor(Flow(image_shape[0], self), self, image_shape),
            self.editor.build_generator(image_shape, num_alpha_bins, num_concepts),
        )

    def build_discriminator(self, image_shape: ImageShape, num_alpha_bins: int) -> nn.Module:
        return self.editor.build_discriminator(image_shape, num_alpha_bins)

    def build_pair_classifier(self, image_shape: ImageShape, num_concepts: int) -> nn.Module:
        return self.editor.build_pair_classifier(image_shape, num_concepts)


class Flow(UnetBody):
    """The clean image of one that is mixed with noise, z = (1 - t) x + t e.

    A prediction x' is a prediction of the flow's velocity too, e - x = (z - x') / t.
    """

    def __init__(self, num_channels: int, spec: FlowEdit) -> None:
        super().__init__(num_channels, num_channels, num_channels, spec, 3 * (NUM_TIMES - 1))

    def forward(self, mixed: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W), (N,) int64 times 1 to NUM_TIMES - 1 of NUM_TIMES, (N,) labels -> (N, C, H, W)."""
        return self.outputs(mixed, mixed, labels * (NUM_TIMES - 1) + times - 1)


def mix(images: Tensor, noise: Tensor, times: Tensor | int) -> Tensor:
    """z of the rectified flow's straight line; times: of NUM_TIMES, for each image or for all."""
    share = torch.as_tensor(times, device=images.device).view(-1, 1, 1, 1) / NUM_TIMES
    return (1 - share) * images + share * noise


class FlowEditor(nn.Module):
    """psi: the image taken part of the way to noise, without a label, and back as a normal one, within a mask.

    The mask is where the labels `normal` and `exposure` disagree about what an image looks like without its noise. Its
    noise is the same for all images, so that psi(x) depends on x alone.
    """

    noise: Tensor

    def __init__(self, flow: Flow, spec: FlowEdit, image_shape: ImageShape) -> None:
        super().__init__()
        self.flow = flow.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest in
        self.spec, self.start = spec, round(spec.strength * NUM_TIMES)
        noise = torch.randn(spec.num_maps, *image_shape, generator=step_generator(0, 0, "noise of the mask"))
        self.register_buffer("noise", noise)

    @no_grad
    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> the same."""
        on_the_way = self.inverted(images)
        mask, mixed = self.mask(images) if self.spec.mask_level > 0 else None, on_the_way[-1]
        for time in range(self.start, 0, -1):
            clean = self.predicted(mixed, time, NORMAL)
            if self.spec.guidance != 1:
                clean = self.predicted(mixed, time, NO_LABEL).lerp(clean, self.spec.guidance)
            mixed = moved(mixed, clean, time, time - 1)
            if mask is not None:
                mixed = torch.where(mask, mixed, on_the_way[time - 1])
        return mixed.clamp(-1, 1)

    def mask(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) bool."""
        difference = torch.zeros_like(images[:, :1])
        for noise in self.noise:
            mixed = mix(images, noise, self.start)
            apart = self.predicted(mixed, self.start, NORMAL) - self.predicted(mixed, self.start, EXPOSURE)
            difference += apart.abs().mean(dim=1, keepdim=True)
        smooth = F.avg_pool2d(difference, 3, stride=1, padding=1, count_include_pad=False)
        return smooth > self.spec.mask_level * difference.mean(dim=(1, 2, 3), keepdim=True)

    def inverted(self, images: Tensor) -> list[Tensor]:
        """The image and what it becomes at each time up to the strength: the flow backwards, without a label."""
        mixed = [images, mix(images, torch.zeros_like(images), 1)]  # of what noise, cannot be told from the image
        for time in range(1, self.start):
            mixed.append(moved(mixed[-1], self.predicted(mixed[-1], time, NO_LABEL), time, time + 1))
        return mixed

    def predicted(self, mixed: Tensor, time: int, label: int) -> Tensor:
        times = torch.full((len(mixed),), time, device=mixed.device)
        return self.flow(mixed, times, torch.full_like(times, label))


def moved(mixed: Tensor, clean: Tensor, time: int, to: int) -> Tensor:
    """An Euler step along the flow, z + (t' - t) (z - x') / t."""
    return mixed + (to - time) / time * (mixed - clean)


class FlowEdited(nn.Module):
    """G'(psi(x), a, k). psi of the images before is kept: all bins and concepts are asked for one after the other."""

    def __init__(self, psi: FlowEditor, editor: nn.Module) -> None:
        super().__init__()
        self.psi, self.editor = psi, editor
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], (N,) bins, (N,) concepts -> (N, C, H, W) in [-1, 1]."""
        if self._last is None or not torch.equal(self._last[0], images):
            self._last = images, self.psi(images)
        return self.editor(self._last[1], alpha_bins, concepts)
