"""From 8-bit images to batches: gathered, varied, altered, and as floats in [-1, 1]; and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cfexplain.lazy import F, Tensor, torch
from cfexplain.types import Augmentation, Splits


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A batch of (N, C, H, W) uint8 images, normal ones before outliers; N is even where there are outliers.

    origins: (N / 2, C, H, W) uint8, the normal images that the outliers were made of, and masks: (N / 2, H, W) bool,
             where they differ; None where outliers are images of their own.
    """

    images: Tensor
    origins: Tensor | None = None
    masks: Tensor | None = None


class TrainingImages:
    """What batches are drawn from, on the device or, where they are mapped, in their file.

    sources:   normal images and, where they are wanted, those that outliers are drawn from: exposure images, or the
               normal ones again where new pseudo-anomalies are made of them for every batch.
    is_varied: no image comes twice.
    """

    def __init__(self, splits: Splits, device: torch.device, with_outliers: bool = True) -> None:
        self.device, self.augmentation = device, splits.augmentation
        self.fresh = splits.fresh if with_outliers else None
        normals = splits.train.images_for(device)
        self.sources = [normals]
        if with_outliers:
            self.sources.append(normals if self.fresh is not None else splits.exposure.images_for(device))
        self.is_varied = self.augmentation is not None or self.fresh is not None

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """(count,) indices of each source."""
        return [torch.randint(len(images), (count,), generator=generator, device=self.device)
                for images in self.sources]

    def batch(self, indices: Sequence[Tensor], generator: torch.Generator) -> Drawn:
        """The images at (count,) indices of each source, each varied by its own draw."""
        images = [rows(source, chosen, self.device) for source, chosen in zip(self.sources, indices, strict=True)]
        images = augmented(torch.cat(images), self.augmentation, generator)
        if self.fresh is None:
            return Drawn(images=images)
        normals, origins = images.chunk(2)
        altered, masks = self.fresh(origins, generator)
        return Drawn(images=torch.cat([normals, altered]), origins=origins, masks=masks)


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
    """uint8 (N, C, H, W) -> the same shape, each image varied by its own draw; None leaves them alone.

    On the images' device, without a wait for it if the generator is there too. Flip and shift are one gather of bytes.
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
    images = images[batch, channel, ys[:, None, :, None], xs[:, None, None, :]]
    if not (augmentation.rotation or augmentation.exposure):
        return images
    turns, gains = 2 * torch.rand((2, count), generator=generator, device=drawn_on).to(device) - 1
    varied = turned(images.float(), math.radians(augmentation.rotation) * turns) if augmentation.rotation else images
    varied = varied * (1 + augmentation.exposure * gains)[:, None, None, None]
    return varied.round().clamp(0, 255).byte()


def turned(images: Tensor, angles: Tensor) -> Tensor:
    """(N, C, H, W) float, each turned about its middle by its angle, (N,) in radians; corners filled by reflection."""
    height, width = images.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rows = [(cos, -sin * height / width, zero), (sin * width / height, cos, zero)]
    affine = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(affine, [*images.shape], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Indices beyond the border fold back: -1 -> 1, size -> size - 2."""
    places = places.abs()
    return places.where(places < size, 2 * (size - 1) - places)
