"""The loop: what is on disk when a checkpoint is saved, and which weights never get there."""

import math

import pytest
import torch

from cfexplain.engine import stopping
from cfexplain.engine.distributed import ALONE
from cfexplain.engine.loop import train
from cfexplain.errors import FitError, Interrupted


class Walk:
    """Counts up; its loss and its weight turn bad at chosen steps."""

    stage, advice, images_per_step, ranks = "walk", "lower walk.rate", 4, ALONE
    device, autocast_dtype = torch.device("cpu"), None

    def __init__(self, bad_loss: int = 0, bad_weight: int = 0) -> None:
        self.steps_done, self.bad_loss, self.bad_weight = 0, bad_loss, bad_weight
        self.weight = torch.zeros(3)

    def step(self):
        self.steps_done += 1
        self.weight += math.inf if self.steps_done == self.bad_weight else 1
        loss = math.nan if self.steps_done == self.bad_loss else 1 / self.steps_done
        return {"first": torch.tensor(loss), "second": torch.tensor(2.0)}

    def state_dict(self):
        return {"steps_done": self.steps_done, "networks": [{"weight": self.weight}]}

    def load_state_dict(self, state): ...


def events_of(learner: Walk, num_steps: int = 10) -> list[tuple[str, int]]:
    """What happened in which order."""
    events: list[tuple[str, int]] = []

    def note(name):
        return lambda *_: events.append((name, learner.steps_done))

    try:
        train(learner, num_steps, 4, note("tick"), on_step=note("picture"), save=note("save"), save_every_steps=3)
    except FitError as error:
        events.append((str(error), learner.steps_done))
    return events


def test_ticks_and_pictures_come_before_the_save_that_counts_them():
    events = events_of(Walk())
    assert [step for name, step in events if name == "tick"] == [4, 8, 10]
    assert [step for name, step in events if name == "save"] == [3, 6, 9, 10]
    for step in (3, 6, 9, 10):
        assert events.index(("picture", step)) < events.index(("save", step))
    assert events.index(("tick", 10)) < events.index(("save", 10))


def test_a_loss_that_is_not_finite_is_named_with_its_own_step_and_parts():
    events = events_of(Walk(bad_loss=5))  # seen at the save of step 6
    message, step = events[-1]
    assert "not finite at step 5: first nan, second 2; lower walk.rate" in message and step == 6
    assert [step for name, step in events if name == "save"] == [3]


def test_weights_that_are_not_finite_are_never_saved():
    events = events_of(Walk(bad_weight=6))
    assert "weights of the walk are not finite after step 6" in events[-1][0]
    assert [step for name, step in events if name == "save"] == [3]


def test_a_request_to_stop_saves_at_that_step(monkeypatch):
    learner, saved = Walk(), []
    monkeypatch.setattr(stopping, "requested", lambda: "SIGTERM" if learner.steps_done == 5 else None)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 5 of the walk; its state is saved"):
        train(learner, 10, 4, lambda tick: None, save=lambda: saved.append(learner.steps_done), save_every_steps=100)
    assert saved == [5]


def test_a_continued_loop_counts_only_its_own_images(monkeypatch):
    import time

    clock = iter([0.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    learner, ticks = Walk(), []
    learner.steps_done = 6
    train(learner, 10, 100, ticks.append)
    assert ticks[0].images_per_second == 4 * 4 / 2.0  # four steps of four images in two seconds
