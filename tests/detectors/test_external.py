"""An external detector's values, preprocessing, score, direction and calibration."""

import dataclasses
import math
import sys
import types
from typing import NamedTuple

import pytest
import torch
from torch import nn

from cfexplain.data.batches import to_float
from cfexplain.detectors.external.calibration import calibrate_external, check_unchanged
from cfexplain.detectors.external.calibration import calibrated, is_higher_anomalous, pseudo_anomalies, share_of_pairs
from cfexplain.detectors.external.sources import call_factory
from cfexplain.detectors.external.spec import ExternalNetwork, HigherIs, Score
from cfexplain.detectors.base import build_detector, logits_of, compressed
from cfexplain.encoders.conv import Conv
from cfexplain.errors import CfexplainWarning, ConfigError, DataError
from tests.detectors.external_specs import Brightness, bar_splits, external, held, pictures

CPU = torch.device("cpu")
ENCODER = Conv(width=4)


class Recorded(nn.Module):
    """Keeps what it was given; its score is the mean."""

    def forward(self, images):
        self.given = images.detach()
        return images.mean(dim=(1, 2, 3))


def given(images: torch.Tensor, **values) -> torch.Tensor:
    network = Recorded()
    ExternalNetwork(external(**values), network)(images)
    return network.given


def adopted(network: nn.Module, splits=None, **values):
    """The detector of a factory that gives `network`."""
    held.append(network)
    return calibrate_external(external(**values), ENCODER, splits or bar_splits(), 0, CPU)


@pytest.mark.parametrize(("values", "words"), [
    ({"factory": None}, "path or factory: give one of them"),
    ({"path": "model.pt", "factory": "a:b"}, "path or factory"),
    ({"factory": "a.b.c"}, "factory must be module:function"),
    ({"factory": "../a:b"}, "factory must be module:function"),
    ({"height": 32}, "height and width"),
    ({"height": 0, "width": 3}, "height must be >= 1"),
    ({"channels": 2}, "channels must be 1, 3 or null"),
    ({"value_range": (1.0, 0.0)}, "value_range must be"),
    ({"mean": (0.5,)}, "mean and std"),
    ({"mean": (0.5,), "std": (0.0,)}, "std must be > 0"),
    ({"mean": (0.5, 0.5), "std": (1.0,), "channels": 3}, "mean must have 1 or 3 values"),
    ({"class_index": -1}, "class_index"),
    ({"batch_size": 0}, "batch_size"),
])
def test_values_out_of_range(values, words):
    with pytest.raises(ValueError, match=words):
        external(**values)


def test_the_network_gets_the_range_it_expects():
    images = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)  # black, grey, white
    torch.testing.assert_close(given(images)[:, 0, 0, 0], torch.tensor([0.0, 0.5, 1.0]))
    bytes_like = given(images, value_range=(0.0, 255.0))
    torch.testing.assert_close(bytes_like[:, 0, 0, 0], torch.tensor([0.0, 127.5, 255.0]))
    torch.testing.assert_close(given(images, value_range=(-1.0, 3.0))[:, 0, 0, 0], torch.tensor([-1.0, 1.0, 3.0]))
    # 0.5 in three channels: (0.5 - 0.1) / 0.2, (0.5 - 0.5) / 0.5, (0.5 - 0.3) / 0.4
    normalised = given(images, channels=3, mean=(0.1, 0.5, 0.3), std=(0.2, 0.5, 0.4))
    torch.testing.assert_close(normalised[1, :, 0, 0], torch.tensor([2.0, 0.0, 0.5]))


def test_the_network_gets_the_size_and_channels_it_expects():
    images = to_float(pictures(2, 0))
    assert given(images, height=20, width=8).shape == (2, 3, 20, 8)
    flat = torch.full((1, 1, 4, 4), 0.5)
    torch.testing.assert_close(given(flat, height=9, width=5, channels=3), torch.full((1, 3, 9, 5), 0.75))
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(given(red, channels=1).flatten(), torch.tensor([0.299]))


def test_gradients_pass_the_preprocessing():
    images = to_float(pictures(2, 0)).requires_grad_(True)
    network = ExternalNetwork(external(height=8, width=8, channels=1), Brightness())
    network(images).sum().backward()
    assert (images.grad.abs() > 0).all()


def test_it_stays_in_eval_mode_whatever_it_is_asked():
    """A torch.export program even raises."""
    program = torch.export.export(Brightness(), (to_float(pictures(2, 0)),)).module()
    dropout = nn.Sequential(nn.Dropout(0.9), Brightness())
    for network in (program, dropout):
        detector = nn.Sequential(ExternalNetwork(external(), network)).train()
        images = to_float(pictures(2, 0))
        torch.testing.assert_close(detector(images)[:, 0], Brightness()((images + 1) / 2))
        detector.eval()
    assert not dropout.training and not dropout[0].training


def test_scores_in_batches_are_those_of_one_batch():
    images = pictures(10, 0)
    network = ExternalNetwork(external(batch_size=3), Brightness())
    with torch.no_grad():
        torch.testing.assert_close(network(to_float(images))[:, 0], (to_float(images).mean(dim=(1, 2, 3)) + 1) / 2)


class Pair(NamedTuple):
    map: torch.Tensor
    score: torch.Tensor


class Plain:
    def __init__(self, score):
        self.map, self.score = None, score


@pytest.mark.parametrize(("wrap", "output"), [
    (lambda score: score, None), (lambda score: score[:, None], None), (lambda score: score.view(-1, 1, 1, 1), None),
    (lambda score: (score,), None), (lambda score: {"score": score}, None), (lambda score: [score, 1], "0"),
    (lambda score: {"map": 1, "score": score}, "score"), (lambda score: Pair(score, 2 * score), "map"),
    (lambda score: Pair(None, score), None), (Plain, None), (Plain, "score"),
])
def test_the_score_is_found_in_what_the_network_gives(wrap, output):
    class Wraps(Brightness):
        def forward(self, images):
            return wrap(super().forward(images))

    images = to_float(pictures(4, 0))
    scores = ExternalNetwork(external(output=output), Wraps())(images)
    torch.testing.assert_close(scores, (images.mean(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0] + 1) / 2)


def test_class_scores_and_probabilities_become_logits():
    network = ExternalNetwork(external(class_index=2), Brightness())
    raw = torch.tensor([[0.0, 0.0, 1.0], [math.log(2), math.log(3), math.log(10)]])
    torch.testing.assert_close(network.unsaturated(raw), torch.tensor([1 - math.log(2), math.log(10 / 5)]))
    probability = ExternalNetwork(external(score=Score.probability), Brightness())
    shares = torch.tensor([0.5, 0.9, 0.1])
    torch.testing.assert_close(probability.unsaturated(shares), torch.tensor([0.0, math.log(9), -math.log(9)]))
    assert probability.unsaturated(torch.tensor([0.0, 1.0])).isfinite().all()
    of_two = ExternalNetwork(external(score=Score.probability, class_index=0), Brightness())
    torch.testing.assert_close(of_two.unsaturated(torch.tensor([[0.9, 0.1]])), torch.tensor([math.log(9)]))


def test_calibration_by_hand():
    """0, 1, ..., 100: median 50, 95 % quantile 95. Turned round the quantile is that of -s: 5 from below."""
    normals = torch.arange(101.0)
    found = calibrated(normals, True, "x")
    assert found == pytest.approx((95, 45 / math.log(9)))
    turned = calibrated(normals, False, "x")
    assert turned == pytest.approx((5, -45 / math.log(9)))
    spec = external()
    for (centre, scale), median, end in ((found, 50.0, 95.0), (turned, 50.0, 5.0)):
        probs = spec.log_probs(
            torch.tensor([[median], [end]]), torch.tensor([centre]), torch.tensor(scale)
        )
        torch.testing.assert_close(probs.score, torch.tensor([0.1, 0.5]))


def test_calibration_where_most_normals_share_the_highest_score():
    centre, scale = calibrated(torch.cat([torch.zeros(90), -torch.ones(10)]), True, "x")
    assert centre == 0 and scale > 0.05
    with pytest.raises(DataError, match="all 5 held-out normal images the same score"):
        calibrated(torch.full((5,), 3.0), True, "x")


def test_the_logit_of_an_extreme_score_still_has_a_gradient():
    """It grows with the logarithm there: the slope at 1000 is 10 / 1000."""
    outputs = torch.tensor([[1000.0], [-1e30]], requires_grad=True)
    probs = external().log_probs(outputs, torch.zeros(1), torch.tensor(1.0))
    probs.log_normal.sum().backward()
    torch.testing.assert_close(outputs.grad[0], torch.tensor([-0.01]))
    torch.testing.assert_close(probs.logit[0].item(), 10 * (1 + math.log(100)))
    assert probs.log_anomalous.isfinite().all() and probs.log_normal.isfinite().all()


def test_compression_keeps_the_order_and_what_is_near():
    logits = torch.linspace(-50, 50, 2001, dtype=torch.float64)
    shown = compressed(logits)
    torch.testing.assert_close(shown[logits.abs() <= 10], logits[logits.abs() <= 10])
    assert (shown.diff() > 0).all() and (shown.diff() <= logits.diff() + 1e-9).all()
    torch.testing.assert_close(shown, -shown.flip(0))


def test_share_of_pairs_by_hand():
    # against 2: 1 loses, 2 ties, 3 wins; against 3: 1 and 2 lose, 3 ties
    assert share_of_pairs(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(2 / 6)


@pytest.mark.parametrize(("sign", "wanted"), [(1.0, "higher"), (-1.0, "lower")])
def test_the_direction_is_found(sign, wanted):
    class Signed(Brightness):
        def forward(self, images):
            return sign * super().forward(images)

    splits = bar_splits()
    detector, message = adopted(Signed(), splits)
    assert f"{wanted} is anomalous" in message and "100% of 100 exposure images" in message
    normal, anomalous = (logits_of(detector, part.images) for part in (splits.held_out, splits.test))
    assert normal.max() < anomalous.min()
    assert (normal > detector.threshold).float().mean() == pytest.approx(0.05, abs=0.006)
    torch.testing.assert_close(normal.median().sigmoid(), torch.tensor(0.1), atol=0.003, rtol=0)
    assert abs(detector.threshold.item()) < 0.02 and not any(part.requires_grad for part in detector.parameters())


def test_a_direction_that_cannot_be_told_is_asked_for():
    same = torch.arange(100.0)
    with pytest.raises(DataError, match="tells no direction; say it: detector.higher_is="):
        is_higher_anomalous(same, same + 0.5, HigherIs.auto, "x", "exposure images")
    assert is_higher_anomalous(same, same + 0.5, HigherIs.anomalous, "x", "exposure images")
    assert not is_higher_anomalous(same, same + 0.5, HigherIs.normal, "x", "exposure images")
    with pytest.warns(CfexplainWarning, match="detector.higher_is=normal says otherwise"):
        assert not is_higher_anomalous(same, same + 50, HigherIs.normal, "x", "exposure images")


def test_a_detector_to_which_all_is_normal_is_an_error():
    with pytest.warns(CfexplainWarning), pytest.raises(DataError, match="finds 0% of the exposure images"):
        adopted(Brightness(), higher_is=HigherIs.normal)


def test_without_exposure_altered_normals_tell_the_direction():
    splits = dataclasses.replace(bar_splits(), exposure=None)
    assert "higher is anomalous" in adopted(Brightness(), splits)[1]
    made = pseudo_anomalies(pictures(20, 0), 0)
    assert made.shape == (20, 3, 16, 16) and made.dtype == torch.uint8
    changed = (made != pictures(20, 0)).any(dim=1).float().mean(dim=(1, 2))  # of its 16 x 16 pixels a patch of 5 x 5
    assert (changed > 0.08).all() and (changed < 0.11).all()


def test_a_checkpoint_gives_the_same_scores_and_a_changed_network_is_noticed(tmp_path):
    torch.manual_seed(0)

    def conv() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 1))

    class Squared(nn.Sequential):
        def forward(self, images):
            return super().forward(images).square()

    network = conv()
    splits = bar_splits()
    detector, _ = adopted(network, splits, higher_is=HigherIs.anomalous)
    expected = logits_of(detector, splits.test.images)

    def loaded(other: nn.Module):
        held.append(other)
        again = build_detector(external(higher_is=HigherIs.anomalous), ENCODER, (3, 16, 16), 0)
        again.load_state_dict(detector.state_dict())
        return again.eval()

    again = loaded(conv())  # drawn anew: its weights come from the checkpoint
    torch.testing.assert_close(logits_of(again, splits.test.images), expected)
    check_unchanged(again, (3, 16, 16), tmp_path, "train again")
    with pytest.raises(DataError, match="scores otherwise than when"):
        check_unchanged(loaded(Squared(*conv())), (3, 16, 16), tmp_path, "train again")


def test_a_factory_needs_permission():
    external().check_allowed(True)
    with pytest.raises(ConfigError, match="allow_custom_code=true"):
        external().check_allowed(False)
    external(path="model.pt").check_allowed(False)


def test_a_factory_that_ends_the_program_is_a_mistake(monkeypatch):
    monkeypatch.setitem(sys.modules, "leaves", types.SimpleNamespace(make=lambda: sys.exit(0)))
    with pytest.raises(ConfigError, match="leaves:make failed when it was called: SystemExit: 0"):
        call_factory("leaves:make")


def test_raw_scores_that_are_not_finite_beyond_the_first_images():
    class Rare(Brightness):
        """Fails for a few of the held-out normals only."""

        def forward(self, images):
            scores = super().forward(images)
            return torch.where(images[:, 0, 0, 0] < 3.5 / 255, torch.nan, scores)

    splits = bar_splits()
    is_bad = splits.held_out.images[:, 0, 0, 0] < 4
    assert is_bad.any() and not is_bad[:8].any()
    with pytest.raises(DataError, match=f"NaN or infinite scores to {int(is_bad.sum())} of 200 images"):
        adopted(Rare())
