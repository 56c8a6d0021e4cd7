"""Building blocks of the conditional generator, the discriminator and the concept classifier."""

from __future__ import annotations

from cfexplain.lazy import F, nn, Tensor, torch

GROUP_SIZE = 8  # channels that are normalised together


def spectral_norm(layer: nn.Module) -> nn.Module:
    """The layer with its weight divided by its largest singular value (Miyato et al., 2018)."""
    return nn.utils.parametrizations.spectral_norm(layer)


class ConditionalGroupNorm(nn.Module):
    """Group norm whose scale and shift are one learned row per condition.

    The lineage (DISSECT, Progressive Exaggeration) has conditional batch norm. Its statistics differ between a mixed
    training batch and a batch of anomalies, and the same counterfactuals then score differently; group norm has no
    batch statistics, so training and explaining see the same network.
    """

    def __init__(self, num_channels: int, num_conditions: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(max(1, num_channels // GROUP_SIZE), num_channels, affine=False)
        self.scale = nn.Embedding(num_conditions, num_channels)
        self.shift = nn.Embedding(num_conditions, num_channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, features: Tensor, conditions: Tensor) -> Tensor:
        """(N, C, H, W), (N,) condition indices -> (N, C, H, W)."""
        scale, shift = self.scale(conditions), self.shift(conditions)
        return self.norm(features) * scale[:, :, None, None] + shift[:, :, None, None]


class ConditionalResBlock(nn.Module):
    """Pre-activation residual block: norm(condition), ReLU, convolution, twice; optionally at half or double size."""

    def __init__(self, in_channels: int, out_channels: int, num_conditions: int, resize: float = 1.0) -> None:
        super().__init__()
        self.norm_1 = ConditionalGroupNorm(in_channels, num_conditions)
        self.norm_2 = ConditionalGroupNorm(out_channels, num_conditions)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        is_same = in_channels == out_channels and resize == 1.0
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(in_channels, out_channels, 1)
        self.resize = resize

    def _resized(self, features: Tensor) -> Tensor:
        if self.resize < 1:
            return F.avg_pool2d(features, round(1 / self.resize))
        return F.interpolate(features, scale_factor=self.resize, mode="nearest") if self.resize > 1 else features

    def forward(self, features: Tensor, conditions: Tensor) -> Tensor:
        hidden = self.conv_1(self._resized(F.relu(self.norm_1(features, conditions))))
        hidden = self.conv_2(F.relu(self.norm_2(hidden, conditions)))
        return hidden + self.shortcut(self._resized(features))


class SpectralResBlock(nn.Module):
    """Spectrally normalised residual block that halves the size (Miyato et al., 2018)."""

    def __init__(self, in_channels: int, out_channels: int, is_first: bool = False) -> None:
        super().__init__()
        self.conv_1 = spectral_norm(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv_2 = spectral_norm(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(in_channels, out_channels, 1))
        self.is_first = is_first

    def forward(self, features: Tensor) -> Tensor:
        hidden = features if self.is_first else F.relu(features)
        hidden = self.conv_2(F.relu(self.conv_1(hidden)))
        return F.avg_pool2d(hidden, 2, ceil_mode=True) + self.shortcut(F.avg_pool2d(features, 2, ceil_mode=True))


class SpectralTrunk(nn.Module):
    """Spectral residual blocks and sum pooling: (N, C, H, W) -> (N, width * 2 ** (num_blocks - 1)).

    patch > 1: a pixel-unshuffle stem, which cuts the cost by about the square of the factor.
    """

    def __init__(self, in_channels: int, width: int, num_blocks: int, patch: int = 1) -> None:
        super().__init__()
        channels = [in_channels * patch**2] + [width << block_index for block_index in range(num_blocks)]
        pairs = list(zip(channels[:-1], channels[1:]))
        self.patch = patch
        self.blocks = nn.Sequential(*(SpectralResBlock(a, b, is_first=i == 0) for i, (a, b) in enumerate(pairs)))
        self.output_dim = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        if self.patch > 1:
            padding = (0, -images.shape[3] % self.patch, 0, -images.shape[2] % self.patch)
            images = F.pixel_unshuffle(F.pad(images, padding, mode="replicate"), self.patch)
        return F.relu(self.blocks(images)).sum(dim=(2, 3))


class ProjectionDiscriminator(nn.Module):
    """D(x, a): realism of an image for its alpha bin, linear logit + projection of the bin (Miyato & Koyama, 2018)."""

    def __init__(self, num_channels: int, width: int, num_blocks: int, patch: int, num_alpha_bins: int) -> None:
        super().__init__()
        self.trunk = SpectralTrunk(num_channels, width, num_blocks, patch)
        self.logit = spectral_norm(nn.Linear(self.trunk.output_dim, 1))
        self.bin_embedding = spectral_norm(nn.Embedding(num_alpha_bins, self.trunk.output_dim))

    def forward(self, images: Tensor, alpha_bins: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], (N,) bins -> (N,) logits, high = real."""
        features = self.trunk(images)
        return self.logit(features).squeeze(1) + (features * self.bin_embedding(alpha_bins)).sum(dim=1)


class PairClassifier(nn.Module):
    """R of the paper: which concept turned `source` into `edited`? A deep network that sees all of both images.

    It and G can agree on a mark that no eye sees, or on a concept that means one change for these images and another
    for those.
    """

    def __init__(self, num_channels: int, width: int, num_blocks: int, num_concepts: int) -> None:
        super().__init__()
        self.trunk = SpectralTrunk(2 * num_channels, width, num_blocks)
        self.head = spectral_norm(nn.Linear(self.trunk.output_dim, num_concepts))

    def forward(self, source: Tensor, edited: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """two (N, C, H, W) in [-1, 1] -> (N, K) logits."""
        return self.head(self.trunk(torch.cat([source, edited], dim=1)))


def cell_means(images: Tensor, grid: int) -> Tensor:
    """F.adaptive_avg_pool2d as products, whose gradient a GPU can repeat: (N, C, H, W) -> (N, C, grid, grid)."""
    rows, columns = (F.adaptive_avg_pool1d(torch.eye(side, device=images.device), grid) for side in images.shape[2:])
    return torch.einsum("nchw,hi,wj->ncij", images, rows, columns)


class DirectionClassifier(nn.Module):
    """R as one linear layer on the direction of a coarse edit: a concept is one way of changing any image.

    The edit is averaged over a coarse grid, so that fine marks are of no use, brought to length 1, and given noise
    (at test time there is none). Being linear, R cannot tell "red for yellow digits, a 1 for
    blue ones" from its mirror image, which a deep R takes for a concept.
    """

    SHARPNESS = 10.0  # of the softmax: directions have length 1

    def __init__(self, num_channels: int, num_concepts: int, grid: int, noise: float) -> None:
        super().__init__()
        self.head = nn.Linear(num_channels * grid**2, num_concepts, bias=False)
        self.grid = grid
        self.noise = noise

    def forward(self, source: Tensor, edited: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """two (N, C, H, W) in [-1, 1] -> (N, K) logits."""
        edit = cell_means(edited - source, self.grid).flatten(1)
        direction = edit / (edit.norm(dim=1, keepdim=True) + 1e-3)
        if self.noise > 0 and noise is not None:
            drawn = torch.randn(direction.shape, generator=noise, device=noise.device)
            direction = direction + self.noise * drawn.to(direction)
        return self.SHARPNESS * F.linear(direction, F.normalize(self.head.weight, dim=1))
