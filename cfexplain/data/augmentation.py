"""Flips and shifts of a batch on its device, in one gather of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.lazy import Tensor, torch
from cfexplain.types import Augmentation


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """A part of a dataset's config: how training batches are varied, see types.Augmentation."""

    flip: bool
    crop_padding: int

    @property
    def augmentation(self) -> Augmentation | None:
        """None where images stay as they are."""
        if not (self.flip or self.crop_padding):
            return None
        return Augmentation(flip=self.flip, crop_padding=self.crop_padding)


def check_crop_padding(crop_padding: int, side: int) -> None:
    """ValueError for more pixels than a border of images of that side can reflect."""
    if not 0 <= crop_padding < side:
        raise ValueError(f"crop_padding must lie in 0 to {side - 1} pixels, got {crop_padding}")


def augmented(images: Tensor, augmentation: Augmentation | None, generator: torch.Generator) -> Tensor:
    """uint8 (N, C, H, W) -> the same shape, each image flipped and shifted by its own draw; None leaves them alone.

    generator: on the CPU, so that a GPU run draws the same.
    """
    if augmentation is None:
        return images
    count, channels, height, width = images.shape
    padding, device = augmentation.crop_padding, images.device
    shifts = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator).to(device)
    ys = _reflected(torch.arange(height, device=device) + shifts[0], height)  # (N, H)
    xs = _reflected(torch.arange(width, device=device) + shifts[1], width)  # (N, W)
    if augmentation.flip:
        is_flipped = torch.randint(2, (count, 1), generator=generator).to(device).bool()
        xs = torch.where(is_flipped, width - 1 - xs, xs)
    batch = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return images[batch, channel, ys[:, None, :, None], xs[:, None, None, :]]


def _reflected(places: Tensor, size: int) -> Tensor:
    """Indices beyond the border fold back: -1 -> 1, size -> size - 2."""
    places = places.abs()
    return places.where(places < size, 2 * (size - 1) - places)
