"""A U-Net (Ronneberger et al., 2015) that also says where it edits: for parts with defects.

Skips at every size carry the detail of what stays; the region, a mask of the image, confines what changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfexplain.checks import check_positive
from cfexplain.generators.base import Region, TrainedGeneratorSpec
from cfexplain.generators.blocks import ConditionalGroupNorm
from cfexplain.lazy import F, nn, Tensor, torch
from cfexplain.types import ImageShape

AT_START = -2.0  # logit of the region: a small part of each pixel is edited


@dataclass(frozen=True, kw_only=True)
class Unet(TrainedGeneratorSpec):
    """width: channels of the first level, doubled at each of num_downsamplings further ones.

    head_width: channels of the head's layer at full resolution, which sees the source.
    """

    width: int
    num_downsamplings: int
    head_width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "width", "num_downsamplings", "head_width")

    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        return UnetGenerator(
            image_shape[0], self.width, self.num_downsamplings, self.patch, self.head_width, num_alpha_bins,
            num_concepts,
        )


class UnetGenerator(nn.Module):
    """x + m (y - x) of the source x: the drawn image y within the region m, the source elsewhere.

    In training m is a sigmoid. In eval mode it is a little wider and cut at 0 and 1, so that outside the region the
    source stays as it is, bit for bit.
    """

    def __init__(
        self, channels: int, width: int, num_downsamplings: int, patch: int, head_width: int, num_alpha_bins: int,
        num_concepts: int,
    ) -> None:
        super().__init__()
        self.patch, self.num_concepts = patch, num_concepts
        self.multiple, num_conditions = patch << num_downsamplings, num_alpha_bins * num_concepts
        widths = [width << level for level in range(num_downsamplings + 1)]
        steps = list(zip(widths[:-1], widths[1:]))
        self.stem = UnetBlock(channels * patch**2, width, num_conditions)
        self.downs = nn.ModuleList([UnetBlock(a, b, num_conditions) for a, b in steps])
        self.ups = nn.ModuleList([UnetBlock(a + b, a, num_conditions) for a, b in reversed(steps)])
        self.head_features = nn.Conv2d(width, head_width, 3, padding=1)
        self.head_source = nn.Conv2d(channels, head_width, 3, padding=1)
        self.head = nn.Conv2d(head_width, channels + 1, 3, padding=1)
        with torch.no_grad():
            self.head.bias[-1] = AT_START

    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], (N,) bins, (N,) concepts -> (N, C, H, W) in [-1, 1]."""
        return self.with_region(images, alpha_bins, concepts)[0]

    def with_region(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> tuple[Tensor, Region]:
        """The edited images, and where they are edited."""
        height, width = images.shape[2:]
        conditions = alpha_bins * self.num_concepts + concepts
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(images, padding, mode="reflect") if any(padding) else images
        features = self.stem(F.pixel_unshuffle(padded, self.patch), conditions)
        skips = []
        for down in self.downs:
            skips.append(features)
            features = down(F.avg_pool2d(features, 2), conditions)
        for up in self.ups:
            features = up(torch.cat([skips.pop(), F.interpolate(features, scale_factor=2.0)], dim=1), conditions)
        features = self.head_features(features)  # before it is enlarged: a quarter of the work
        if self.patch > 1:
            features = F.interpolate(features, scale_factor=self.patch, mode="bilinear", align_corners=False)
        drawn = self.head(F.relu(features + self.head_source(padded)))[:, :, :height, :width]
        drawn, logits = drawn[:, :-1].tanh(), drawn[:, -1:].float()
        region = logits.sigmoid() if self.training else (1.2 * logits.sigmoid() - 0.1).clamp(0, 1)
        return images + region * (drawn - images), Region(drawn=drawn, logits=logits)


class UnetBlock(nn.Module):
    """Two 3x3 convolutions, each under a conditional norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, num_conditions: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm_1 = ConditionalGroupNorm(out_channels, num_conditions)
        self.norm_2 = ConditionalGroupNorm(out_channels, num_conditions)

    def forward(self, features: Tensor, conditions: Tensor) -> Tensor:
        features = F.relu(self.norm_1(self.conv_1(features), conditions))
        return F.relu(self.norm_2(self.conv_2(features), conditions))
