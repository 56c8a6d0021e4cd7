"""From 8-bit images to batches: gathered, varied, and as floats in [-1, 1]; and back."""

from __future__ import annotations

from cfexplain.lazy import Tensor, torch
from cfexplain.types import Augmentation


def rows(images: Tensor, indices: Tensor, device: torch.device) -> Tensor:
    """The images at (M,) indices, gathered where they lie and then brought to the device."""
    return images[indices.to(images.device)].to(device)


def to_float(images: Tensor) -> Tensor:
    """uint8 (..., H, W) in 0..255 -> float32 in [-1, 1], on the same device."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """float (..., H, W) in [-1, 1] -> uint8, rounded and clamped."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).byte()


def augmented(images: Tensor, augmentation: Augmentation | None, generator: torch.Generator) -> Tensor:
    """uint8 (N, C, H, W) -> the same shape, each image flipped and shifted by its own draw; None leaves them alone.

    One gather of bytes, on the images' device; without a wait for it, if the generator is there too.
    """
    if augmentation is None:
        return images
    count, channels, height, width = images.shape
    padding, device, drawn_on = augmentation.crop_padding, images.device, generator.device
    shifts = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator, device=drawn_on).to(device)
    ys = _reflected(torch.arange(height, device=device) + shifts[0], height)  # (N, H)
    xs = _reflected(torch.arange(width, device=device) + shifts[1], width)  # (N, W)
    if augmentation.flip:
        is_flipped = torch.randint(2, (count, 1), generator=generator, device=drawn_on).to(device).bool()
        xs = torch.where(is_flipped, width - 1 - xs, xs)
    batch = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return images[batch, channel, ys[:, None, :, None], xs[:, None, None, :]]


def _reflected(places: Tensor, size: int) -> Tensor:
    """Indices beyond the border fold back: -1 -> 1, size -> size - 2."""
    places = places.abs()
    return places.where(places < size, 2 * (size - 1) - places)
