"""Every metric on a test set of normal images alone, with explanations of exposure images."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from cfexplain.config import build
from cfexplain.errors import CfexplainWarning
from cfexplain.metrics.base import MetricSpec
from cfexplain.metrics.validity import Validity
from tests.specs import metric_values

FILES = sorted((Path(__file__).parents[2] / "conf" / "metric").glob("*.yaml"))
LEFT_OUT = {
    "auroc": {"detector_auroc"}, "transfer": {"transfer_detector_auroc"}, "fid": {"fid_anomaly", "fid_normalized"},
    "substitutability": {"substitutability_auroc", "substitutability_ratio"}, "oracle": {"oracle_normal_rate"},
    "variation": {"label_variation"}, "family": {"family_auroc"},
}  # fmt: skip
NOTHING = (
    "substitutability", "oracle", "classes", "localization", "restoration", "conservation", "correction",
    "reversibility", "variation",
)
RANDOM = {
    "_target_": "cfexplain.encoders.lite0.Lite0", "weights": None, "layers": [1, 2], "trainable": False,
    "normalize_exposure": False,
}  # fmt: skip
QUICK = {"num_resamples": 20, "num_steps": 20, "width": 4, "autoencoder_steps": 3, "autoencoder_width": 2,
         "encoder": RANDOM}
VALIDITY = Validity(num_resamples=20)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_needs_anomalies_is_left_out_with_one_warning(file, only_normals):
    ((name, values),) = metric_values(file.stem).items()
    metric = build(values | {key: value for key, value in QUICK.items() if key in values}, MetricSpec, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = metric.compute(replace(only_normals, metrics={"validity": VALIDITY}))  # for the baselines to measure
    messages = [str(item.message) for item in caught if issubclass(item.category, CfexplainWarning)]
    said = [message for message in messages if "no test anomalies" in message]
    assert len(said) == (1 if name in LEFT_OUT else 0)
    assert not LEFT_OUT.get(name, set()) & set(found)
    assert found or name in NOTHING
    assert all(math.isfinite(value) for value in found.values() if not isinstance(value, str))
