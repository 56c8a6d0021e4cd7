"""Progress without a terminal: one flushed line a tick, and the same ticks in history.jsonl."""

import io
import json

import pytest

from cfexplain.reporting.console import Reporter, as_clock
from cfexplain.types import Tick


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tick(stage: str, step: int, loss: float = 0.5) -> Tick:
    return Tick(stage=stage, step=step, num_steps=100, values={"loss": loss}, images_per_second=250.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reporter(tmp_path, clock) -> Reporter:
    return Reporter(io.StringIO(), tmp_path / "history.jsonl", clock)


def test_a_line_a_tick_says_where_it_stands(reporter, clock):
    reporter.begin_stage("detector", 0)
    clock.now = 30.0
    reporter(tick("detector", 25))
    # 25 steps took 30 s, so the other 75 take 90 s
    line = reporter.stream.getvalue()
    assert line.startswith("[detector] step 25/100 loss 0.5 | 250 images/s, ") and line.endswith("MB, ETA 1:30\n")


def test_the_eta_of_a_continued_run_counts_only_its_own_steps(reporter, clock):
    reporter.begin_stage("generator", 50)
    clock.now = 10.0
    assert reporter.eta_seconds(tick("generator", 75)) == 10.0


def test_history_has_the_ticks_and_a_continued_stage_forgets_what_it_repeats(reporter):
    for stage, step in (("detector", 100), ("generator", 10), ("generator", 20), ("generator", 30)):
        reporter(tick(stage, step))
    reporter.begin_stage("generator", 20)
    reporter(tick("generator", 30, loss=0.25))
    lines = [json.loads(line) for line in reporter.history.read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("detector", 100), ("generator", 10), ("generator", 20), ("generator", 30)]
    # no clock readings: they would differ between a run and its repetition
    assert lines[-1] == {"stage": "generator", "step": 30, "num_steps": 100, "loss": 0.25}


def test_a_line_that_a_killed_run_left_half_written_is_cut(reporter):
    reporter(tick("generator", 10)), reporter(tick("generator", 20))
    whole = reporter.history.read_bytes()
    for cut in (1, 5, 60):
        reporter.history.write_bytes(whole[:-cut])
        reporter.begin_stage("generator", 10)
        reporter(tick("generator", 20))
        assert reporter.history.read_bytes() == whole


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (5, "0:05"), (75, "1:15"), (3675, "1:01:15")])
def test_clock(seconds, text):
    assert as_clock(seconds) == text
