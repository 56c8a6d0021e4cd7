"""A U-Net (Ronneberger et al., 2015) that also says where it edits: for parts with defects.

Skips at every size carry the detail of what stays; the region, a mask of the image, confines what changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cfexplain.checks import check_between, check_positive
from cfexplain.data.batches import to_float
from cfexplain.generators.base import Region, TrainedGeneratorSpec
from cfexplain.generators.blocks import ConditionalGroupNorm
from cfexplain.lazy import F, nn, no_grad, Tensor, torch
from cfexplain.types import ImageShape

AT_START = -2.0  # logit of the region: a small part of each pixel is edited
CALIBRATING_IMAGES, CALIBRATING_BATCH = 256, 32
TRACKING = 0.05  # of the way to a batch's level


@dataclass(frozen=True, kw_only=True)
class Unet(TrainedGeneratorSpec):
    """width: channels of the first level, doubled at each of num_downsamplings further ones.

    head_width: channels of the head's layer at full resolution, which sees the source.
    sees_score_map: the detector's score map, of one that has one, is a further channel of the image.
    false_region_rate: of the pixels of held-out normal images, which the region of alpha = 0 takes in.
    inpaints: what is drawn in the region comes from its surroundings alone, by a second network of the same size, which
              does not see the source there: nothing of a defect is left, and nothing of what was right.
    rises: learns to make images more anomalous too; else any alpha but 0 gives the image back.
    """

    width: int
    num_downsamplings: int
    head_width: int
    sees_score_map: bool
    false_region_rate: float
    inpaints: bool
    rises: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "width", "num_downsamplings", "head_width")
        check_between(self, 0, 0.5, "false_region_rate")

    @property
    def makes_anomalies(self) -> bool:
        return self.rises

    def build_generator(self, image_shape: ImageShape, num_alpha_bins: int, num_concepts: int) -> nn.Module:
        return UnetGenerator(image_shape[0], self, num_alpha_bins, num_concepts)


class UnetBody(nn.Module):
    """(N, C', H, W), and the (N, C, H, W) images that the head sees too -> (N, C'', H, W)."""

    def __init__(self, num_seen: int, num_channels: int, num_outputs: int, spec: Unet, num_conditions: int) -> None:
        super().__init__()
        width, head_width, self.patch = spec.width, spec.head_width, spec.patch
        self.multiple = spec.patch << spec.num_downsamplings
        widths = [width << level for level in range(spec.num_downsamplings + 1)]
        steps = list(zip(widths[:-1], widths[1:]))
        self.stem = UnetBlock(num_seen * self.patch**2, width, num_conditions)
        self.downs = nn.ModuleList([UnetBlock(a, b, num_conditions) for a, b in steps])
        self.ups = nn.ModuleList([UnetBlock(a + b, a, num_conditions) for a, b in reversed(steps)])
        self.head_features = nn.Conv2d(width, head_width, 3, padding=1)
        self.head_source = nn.Conv2d(num_channels, head_width, 3, padding=1)
        self.head = nn.Conv2d(head_width, num_outputs, 3, padding=1)

    def outputs(self, seen: Tensor, images: Tensor, conditions: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(padding):
            seen, images = (F.pad(each, padding, mode="reflect") for each in (seen, images))
        features = self.stem(F.pixel_unshuffle(seen, self.patch), conditions)
        skips = []
        for down in self.downs:
            skips.append(features)
            features = down(F.avg_pool2d(features, 2), conditions)
        for up in self.ups:
            features = up(torch.cat([skips.pop(), F.interpolate(features, scale_factor=2.0)], dim=1), conditions)
        features = self.head_features(features)  # before it is enlarged: a quarter of the work
        if self.patch > 1:
            features = F.interpolate(features, scale_factor=self.patch, mode="bilinear", align_corners=False)
        return self.head(F.relu(features + self.head_source(images)))[:, :, :height, :width]


class UnetGenerator(UnetBody):
    """x + m (y - x) of the source x: the drawn image y within the region m, the source elsewhere.

    m is a sigmoid in training. In eval mode it is a little wider and cut at 0 and 1, so that outside the region the
    source stays as it is, bit for bit. Its logits of alpha = 0 count from `level`, as real defects are fainter than
    what the region is taught on: calibrate() finds it, and in training track() follows it, so that G is trained to
    draw well wherever it will be asked to. Where y is inpainted, a second network draws it that sees the source
    outside the region alone.
    """

    level: Tensor

    def __init__(self, channels: int, spec: Unet, num_alpha_bins: int, num_concepts: int) -> None:
        num_conditions, num_drawn = num_alpha_bins * num_concepts, 0 if spec.inpaints else channels
        super().__init__(channels + spec.sees_score_map, channels, num_drawn + 1, spec, num_conditions)
        self.spec, self.num_concepts = spec, num_concepts
        self.score_map: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("level", torch.zeros(()))
        with torch.no_grad():
            self.head.bias[-1] = AT_START - spec.inpaints  # or all of the image would be hidden
        if spec.inpaints:
            self.painter = UnetBody(channels + 1, channels, channels, spec, num_conditions)

    @no_grad
    def track(self, logits: Tensor) -> None:
        """Let `level` follow the region's logits of a batch's normal images."""
        self.level.lerp_(self._level_of(logits.flatten()), TRACKING)

    def _level_of(self, logits: Tensor) -> Tensor:
        return logits.sort().values[round((1 - self.spec.false_region_rate) * (len(logits) - 1))]

    @no_grad
    def calibrate(self, normals: Tensor) -> None:
        """Set `level` by (N, C, H, W) uint8 held-out normal images."""
        logits = []
        for batch in normals[:CALIBRATING_IMAGES].split(CALIBRATING_BATCH):
            images = to_float(batch.to(self.level.device))
            zeros = torch.zeros(len(images), dtype=torch.long, device=images.device)
            for concept in range(self.num_concepts):
                logits.append(self.with_region(images, zeros, zeros + concept)[1].logits.flatten())
        self.level.copy_(self._level_of(torch.cat(logits)))

    def forward(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1], (N,) bins, (N,) concepts -> (N, C, H, W) in [-1, 1]."""
        return self.with_region(images, alpha_bins, concepts)[0]

    def with_region(self, images: Tensor, alpha_bins: Tensor, concepts: Tensor) -> tuple[Tensor, Region]:
        """The edited images, and where they are edited."""
        conditions = alpha_bins * self.num_concepts + concepts
        outputs = self.outputs(self._seen(images), images, conditions)
        drawn, logits = outputs[:, :-1], outputs[:, -1:].float()
        levels = torch.where(alpha_bins == 0, self.level, 0.0 if self.spec.rises else torch.inf)
        region = (logits - levels[:, None, None, None]).sigmoid()
        in_use = 1.2 * region - 0.1
        if self.spec.inpaints:
            is_hidden = in_use > 0
            visible = images.masked_fill(is_hidden, 0)
            drawn = self.painter.outputs(torch.cat([visible, is_hidden.to(images)], dim=1), visible, conditions)
        drawn = drawn.tanh()
        if not self.training:
            region = in_use.clamp(0, 1)
        return images + region * (drawn - images), Region(drawn=drawn, logits=logits)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}level", torch.zeros(()))  # runs of before there was one
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _seen(self, images: Tensor) -> Tensor:
        """(N, C, H, W), and the logarithm of the score map as a further channel; 0 where the detector has none."""
        if not self.spec.sees_score_map:
            return images
        if self.score_map is None:
            return F.pad(images, (0, 0, 0, 0, 0, 1))
        with torch.no_grad():
            scores = self.score_map(images).log()[:, None]
        return torch.cat([images, scores.to(images)], dim=1)


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
