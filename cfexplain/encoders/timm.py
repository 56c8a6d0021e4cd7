"""A network of the package timm as the body of a detector, with random or given weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cfexplain.encoders.base import check_size
from cfexplain.encoders.pretrained import FeatureEncoderSpec, FeatureMaps, ImageNetPixels
from cfexplain.errors import ConfigError, DataError, did_you_mean, reason_of
from cfexplain.lazy import timm
from cfexplain.types import ImageShape

MISSING = 'encoder=timm needs the package timm, which is not there: pip install "cfexplain[timm]"'


@dataclass(frozen=True, kw_only=True)
class Timm(FeatureEncoderSpec):
    """model:  its name in timm; one that gives feature maps.
    weights: null (random), default (timm's own, from its cache or the network), or the path of a file of them.
    layers:  stages of the model, from 0; of a resnet 0 is the stem, 4 the last.
    """

    model: str

    def build_features(self, image_shape: ImageShape) -> FeatureMaps:
        if find_spec("timm") is None:
            raise ConfigError(MISSING)
        name = self.model.partition(".")[0]  # model.weights
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models())
            raise ConfigError(f"encoder.model={self.model} is no model of timm.{hint}")
        check_size(image_shape, 8, "timm")
        given: dict[str, Any] = {"pretrained": self.weights is not None}
        if self.weights not in (None, "default"):
            path = Path(self.weights).expanduser()
            if not path.is_file():
                remedy = f"Set encoder.weights to those of timm's {self.model}, or to null for none."
                raise DataError(f"no weights at {path}. {remedy}")
            given["pretrained_cfg_overlay"] = {"file": str(path)}
        body = self._model(given)
        values = body.pretrained_cfg
        pixels = ImageNetPixels(tuple(values["mean"]), tuple(values["std"]), self.normalize_exposure)
        return FeatureMaps(pixels, body, tuple(body.feature_info.channels()), self.trainable)

    def _model(self, given: dict[str, Any]) -> Any:
        try:
            return timm.create_model(self.model, features_only=True, out_indices=self.layers, **given)
        except Exception as error:  # noqa: BLE001: whatever timm's many models and its readers of weights raise
            if given["pretrained"]:
                raise DataError(
                    f"no weights for timm's {self.model} ({reason_of(error)}). Fetch them where there is a network and "
                    "set encoder.weights to the path of the file, or to null for random weights."
                ) from error
            reason = f"timm's {self.model} gives no maps of layers {list(self.layers)} ({reason_of(error)})"
            raise ConfigError(f"{reason}; set encoder.layers to stages it has") from error
