"""An autoencoder's projection: it has learned to copy normal images only, so what it makes of an anomaly is normal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfexplain.data.batches import to_float, to_uint8
from cfexplain.detectors.base import in_batches
from cfexplain.encoders.base import SLOPE
from cfexplain.encoders.conv import ConvEncoder, NUM_BLOCKS
from cfexplain.lazy import F, nn, Tensor, torch
from cfexplain.metrics.judges import fingerprint, kept_network
from cfexplain.types import ImageShape

BATCH_SIZE = 64
PEAK_LEARNING_RATE = 3e-3


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """num_features: numbers that an image is squeezed through. The seed is its own: runs of other seeds share it."""

    width: int
    num_features: int
    num_steps: int
    seed: int = 0


class Autoencoder(nn.Module):
    """A convolutional encoder and its mirror: nearest-neighbour doubling in the place of pooling."""

    def __init__(self, image_shape: ImageShape, recipe: AutoencoderRecipe) -> None:
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
    return in_batches(lambda batch: to_uint8(autoencoder(batch)), images, device)


def train_autoencoder(images: Tensor, recipe: AutoencoderRecipe, device: torch.device | str) -> Autoencoder:
    """A frozen one. images: (N, C, H, W) uint8, normal ones. The global random state stays as it was."""
    autoencoder = _untrained(images, recipe).to(device).train()
    optimiser = torch.optim.Adam(autoencoder.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=recipe.num_steps)
    rng = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.num_steps):
        batch = to_float(images[torch.randint(len(images), (BATCH_SIZE,), generator=rng)].to(device))
        loss = F.mse_loss(autoencoder(batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return autoencoder.eval().requires_grad_(False)


def cached_autoencoder(
    cache_dir: Path, images: Tensor, recipe: AutoencoderRecipe, device: torch.device | str
) -> Autoencoder:
    """`train_autoencoder`, or what it gave for the same images and recipe before."""
    name = f"autoencoder-{fingerprint(images, torch.empty(0), recipe)}.pt"
    train = lambda: train_autoencoder(images, recipe, device)  # noqa: E731
    return kept_network(cache_dir / "judges" / name, _untrained(images, recipe), train, device)


def _untrained(images: Tensor, recipe: AutoencoderRecipe) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Autoencoder(tuple(images.shape[1:]), recipe)
