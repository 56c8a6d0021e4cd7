"""Simpler ways to make a counterfactual, one an image: nearest normal image, gradient descent, an autoencoder.

Nearest normal training image: what case-based reasoning would show. Projected gradient descent on the detector's logit
(Madry et al., 2018): nothing holds it near normal images, so it is an adversarial example; the detector is convinced,
and nobody else. Autoencoder: it has learned to copy normal images only, so what it makes of an anomaly is normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cfexplain.data.batches import to_float, to_uint8
from cfexplain.detectors.base import Detector, batched_on_cpu
from cfexplain.encoders.base import SLOPE
from cfexplain.encoders.conv import ConvEncoder, NUM_BLOCKS
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.metrics.classifiers import fingerprint, FOLDER, NetworkRecipe, train_network
from cfexplain.types import ImageShape

CHUNK_VALUES = 1 << 25  # pixels and channels of the training images at a time
MAX_GRADIENT_BATCH_SIZE = 256
GRADIENT_BATCH_VALUES = 1 << 21  # pixels and channels of a batch: a backward pass keeps what the forward pass computes
TINY = 1e-12
AUTOENCODER_BATCH_SIZE = 64


@no_grad
def nearest_indices(images: Tensor, normals: Tensor, device: torch.device | str) -> Tensor:
    """(N,) int64: of each of N images the normal image at the smallest L2 distance of the pixels.

    images: (N, C, H, W) uint8; normals: (T, C, H, W) uint8, may be mapped.
    """
    queries = to_float(images.to(device)).flatten(1)  # (N, D)
    best = torch.full((len(images),), torch.inf, device=device)
    indices = torch.zeros(len(images), dtype=torch.long, device=device)
    chunk_size = max(1, CHUNK_VALUES // queries.shape[1])
    for start in range(0, len(normals), chunk_size):
        chunk = to_float(normals[start : start + chunk_size].to(device)).flatten(1)  # (T', D)
        # |q - t|^2 without |q|^2, which is the same for every t
        distances = chunk.square().sum(dim=1) - 2 * queries @ chunk.T  # (N, T')
        values, places = distances.min(dim=1)
        is_nearer = values < best
        best, indices = torch.where(is_nearer, values, best), torch.where(is_nearer, places + start, indices)
    return indices.cpu()


class Norm(Enum):
    """What the ball and a step are measured by: a pixel's largest change, or the root mean square over pixels."""

    linf = "linf"
    l2 = "l2"


@dataclass(frozen=True, kw_only=True)
class GradientRecipe:
    """radius, step_size: in [-1, 1] units, measured by `norm`."""

    norm: Norm
    radius: float
    step_size: float
    num_steps: int


def descended(
    detector: Detector, images: Tensor, threshold: float, recipe: GradientRecipe, device: torch.device | str
) -> Tensor:
    """Each image moved down the logit until its 8-bit rounding is at or below the threshold, at most num_steps steps.

    images: (N, C, H, W) uint8 -> the same. It never leaves the ball around its image.
    """
    batch_size = min(MAX_GRADIENT_BATCH_SIZE, max(1, GRADIENT_BATCH_VALUES // images[0].numel()))
    return torch.cat([
        _descended(detector, batch, threshold, recipe, device) for batch in images.split(batch_size)
    ])


def _descended(
    detector: Detector, images: Tensor, threshold: float, recipe: GradientRecipe, device: torch.device | str
) -> Tensor:
    found = images.clone()
    active = torch.arange(len(images))  # those still above the threshold
    centres = to_float(images.to(device))
    positions = centres
    for _ in range(recipe.num_steps):
        with torch.enable_grad():
            moved = to_float(found[active].to(device)).requires_grad_()
            logits = detector.log_probs(moved).logit
            (gradients,) = torch.autograd.grad(logits.sum(), moved)
        above = logits.detach() > threshold
        if not above.any():
            break
        active, centres, positions = active[above.cpu()], centres[above], positions[above]
        steps = recipe.step_size * _direction(gradients[above], recipe.norm)
        positions = (centres + _in_ball(positions - steps - centres, recipe)).clamp(-1, 1)
        found[active] = to_uint8(positions).cpu()
    return found


def _direction(gradients: Tensor, norm: Norm) -> Tensor:
    """The steepest direction whose size in the norm is 1."""
    return gradients.sign() if norm is Norm.linf else gradients / _root_mean_square(gradients).clamp_min(TINY)


def _in_ball(changes: Tensor, recipe: GradientRecipe) -> Tensor:
    if recipe.norm is Norm.linf:
        return changes.clamp(-recipe.radius, recipe.radius)
    return changes * (recipe.radius / _root_mean_square(changes).clamp_min(TINY)).clamp_max(1)


def _root_mean_square(values: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, 1, 1)."""
    return values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


class Autoencoder(nn.Module):
    """A convolutional encoder and its mirror: nearest-neighbour doubling in the place of pooling.

    An image is squeezed through recipe.num_features numbers.
    """

    def __init__(self, image_shape: ImageShape, recipe: NetworkRecipe) -> None:
        super().__init__()
        num_channels, self.height, self.width = image_shape
        scale, channels = 1 << NUM_BLOCKS, recipe.width << (NUM_BLOCKS - 1)
        smallest = (channels, -(-self.height // scale), -(-self.width // scale))  # rounded up; the rest is cut off
        self.encoder = ConvEncoder(image_shape, recipe.num_features, recipe.width)
        layers: list[nn.Module] = [
            nn.Linear(recipe.num_features, smallest[0] * smallest[1] * smallest[2]), nn.Unflatten(1, smallest)
        ]
        for _ in range(NUM_BLOCKS):
            halved = max(channels // 2, num_channels)
            layers += [
                nn.Upsample(scale_factor=2), nn.Conv2d(channels, halved, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(halved), nn.LeakyReLU(SLOPE),
            ]
            channels = halved
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, num_channels, kernel_size=3, padding=1), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> the same."""
        return self.decoder(self.encoder(images))[..., : self.height, : self.width]


def projected(autoencoder: Autoencoder, images: Tensor, device: torch.device | str) -> Tensor:
    """(N, C, H, W) uint8 -> what the autoencoder makes of each, 8 bit."""
    return batched_on_cpu(lambda batch: to_uint8(autoencoder(batch)), images, device)


def train_autoencoder(
    images: Tensor, recipe: NetworkRecipe, device: torch.device | str, cache_dir: Path | None = None
) -> Autoencoder:
    """A frozen one. images: (N, C, H, W) uint8, normal ones. The global random state stays as it was.

    cache_dir: the same images and recipe are trained on once.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        autoencoder = Autoencoder(tuple(images.shape[1:]), recipe).to(device)

    def loss_of(batch: Tensor) -> Tensor:
        originals = to_float(images[batch].to(device))
        return F.mse_loss(autoencoder(originals), originals)

    path = None
    if cache_dir is not None:
        path = cache_dir / FOLDER / f"autoencoder-{fingerprint(images, torch.empty(0), recipe)}.pt"
    return train_network(autoencoder, loss_of, len(images), AUTOENCODER_BATCH_SIZE, recipe, path)
