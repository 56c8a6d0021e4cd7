"""The live view of a training: live.html and TensorBoard say what history.jsonl says, also after a resume."""

import io
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from cfexplain.reporting import tensorboard as board
from cfexplain.reporting.console import Reporter
from cfexplain.files import write_json
from cfexplain.reporting.live import MAX_POINTS, LivePage, finish_live, thinned
from cfexplain.types import Tick
from tests.conftest import TINY


@pytest.fixture
def run_folder(tmp_path):
    """A folder as a training has it once it has begun."""
    (tmp_path / "images").mkdir()
    write_json(tmp_path / "run.json", {"status": "running", "device": "cpu", "argv": ["cfexplain", "train"], "pid": 1})
    return tmp_path


def tick(step, value=None, stage="generator", num_steps=10):
    values = {"adversarial": float(step if value is None else value)}
    return Tick(stage=stage, step=step, num_steps=num_steps, values=values, images_per_second=12.0)


def reporter_of(folder, *watchers):
    clock = iter(range(10_000))
    reporter = Reporter(io.StringIO(), folder / "history.jsonl", clock=lambda: float(next(clock)))
    reporter.watchers = list(watchers)
    return reporter


def picture_at(folder, step, level=0):
    file = folder / "images" / f"counterfactuals-{step:06d}.png"
    Image.fromarray(np.full((4, 5, 3), level, dtype=np.uint8)).save(file)
    return file


def page_of(folder):
    return (folder / "live.html").read_text(encoding="utf-8")


def points_of(page):
    """The places of the first curve."""
    return [tuple(map(float, place.split(","))) for place in re.search(r'points="([^"]+)"', page)[1].split()]


def test_a_running_page_shows_the_newest_and_loads_itself_again(run_folder):
    reporter = reporter_of(run_folder, LivePage(run_folder))
    reporter.begin_stage("generator", 0)
    reporter(tick(2, 4.0))
    reporter.picture(picture_at(run_folder, 2), 2)
    reporter(tick(4, 1.0))
    page = page_of(run_folder)
    assert '<meta http-equiv="refresh"' in page and "4 of 10 (generator)" in page
    assert "counterfactuals-000002.png" in page and "data:image/png;base64," in page
    (x_1, y_1), (x_2, y_2) = points_of(page)
    assert (x_2 - 4) == pytest.approx(2 * (x_1 - 4)) and y_1 < y_2  # twice as far right; a smaller value lies lower
    assert "adversarial: 1 at step 4, between 1 and 4" in page
    assert not re.search(r"(src|href)=\"?https?:", page)


def test_the_eta_is_that_of_the_console(run_folder):
    reporter = reporter_of(run_folder, LivePage(run_folder))
    reporter.begin_stage("generator", 0)  # the clock says 0, then 1 for the page
    reporter(tick(2))
    assert "<td>0:04</td>" in page_of(run_folder)  # 2 steps took 1 s, 8 are left


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_a_page_that_has_ended_stands_still(run_folder, status):
    reporter = reporter_of(run_folder, LivePage(run_folder))
    reporter.begin_stage("generator", 0)
    reporter(tick(2))
    (run_folder / "cfexplain.log").write_text("[2026][cfexplain][ERROR] no space left for it\n")
    write_json(run_folder / "run.json", {"status": status, "device": "cpu", "argv": ["cfexplain"]})
    finish_live(run_folder)
    page = page_of(run_folder)
    assert "refresh" not in page and f"<h1>{status}, 2/10" in page and len(points_of(page)) == 1
    assert ("no space left for it" in page) == (status != "done")


def test_a_run_without_a_page_gets_none_at_its_end(run_folder):
    finish_live(run_folder)
    assert not (run_folder / "live.html").exists()


def test_a_resumed_page_has_each_step_once(run_folder):
    first = reporter_of(run_folder, LivePage(run_folder))
    first.begin_stage("generator", 0)
    for step in (2, 4, 6):
        first(tick(step))
    again = reporter_of(run_folder, LivePage(run_folder))
    again.begin_stage("generator", 4)  # the checkpoint stands there; 6 is taken again
    assert len(points_of(page_of(run_folder))) == 2
    again(tick(6))
    places = points_of(page_of(run_folder))
    assert [x for x, _ in places] == sorted({x for x, _ in places}) and len(places) == 3


@pytest.mark.parametrize("num_lines", [1, MAX_POINTS, MAX_POINTS + 2, 5000])
def test_a_long_run_keeps_a_bounded_number_of_points_in_equal_steps_up_to_the_newest(num_lines):
    steps = [line["step"] for line in thinned([{"step": step} for step in range(num_lines)])]
    assert min(num_lines, MAX_POINTS) / 2 <= len(steps) <= MAX_POINTS
    assert steps[-1] == num_lines - 1 and len(set(np.diff(steps))) <= 1 and steps[0] <= num_lines / MAX_POINTS


def test_a_tick_is_cheap_late_in_a_run(run_folder):
    """Measured at 5 ms on an idle core, with eleven losses; ten times that is still nothing beside a step."""
    values = {f"loss_{index}": 1.0 / (index + 1) for index in range(11)}
    page = LivePage(run_folder)
    page.begin([{"stage": "generator", "step": step, "num_steps": 9000, **values} for step in range(1, 9000)], "", 0)
    seconds = []
    for step in range(9000, 9005):
        started = time.process_time()  # the machine may be shared
        page.tick(Tick(stage="generator", step=step, num_steps=9000, values=values, images_per_second=1.0), None)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.05
    assert (run_folder / "live.html").stat().st_size < 300_000


def test_what_was_said_is_escaped(run_folder):
    write_json(run_folder / "run.json", {"status": "running", "device": "cpu", "argv": ["cfexplain", "<script>"]})
    LivePage(run_folder).begin([], "generator", 0)
    assert "&lt;script&gt;" in page_of(run_folder) and "<script>" not in page_of(run_folder)


def test_without_the_package_the_config_is_refused(monkeypatch):
    from cfexplain import compose, config
    from cfexplain.command_line import parse
    from cfexplain.commands.train_config import TrainConfig
    from cfexplain.errors import ConfigError

    monkeypatch.setattr(board, "find_spec", lambda name: None)
    (node,) = compose.compositions(parse("train", ["tensorboard=true"]))
    with pytest.raises(ConfigError, match="pip install tensorboard") as caught:
        config.build_root(node, TrainConfig)
    assert caught.value.exit_code == 2


@pytest.fixture
def events():
    """What TensorBoard reads of a run's folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        everything = {accumulator.SCALARS: 0, accumulator.IMAGES: 0}  # else it keeps a sample
        found = accumulator.EventAccumulator(str(folder / board.FOLDER), everything)
        found.Reload()
        return found

    return read


def steps_of(accumulator, tag="generator/adversarial"):
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_tensorboard_holds_the_history(run_folder, events):
    reporter = reporter_of(run_folder, board.TensorBoard(run_folder))
    reporter.begin_stage("detector", 0)
    reporter(tick(5, 0.25, stage="detector"))
    reporter.begin_stage("generator", 0)
    reporter(tick(2, 4.0))
    reporter.picture(picture_at(run_folder, 2, level=200), 2)
    read = events(run_folder)  # while the run still goes on
    assert steps_of(read) == [(2, 4.0)] and steps_of(read, "detector/adversarial") == [(5, 0.25)]
    (picture,) = read.Images("counterfactuals")
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    assert picture.step == 2 and pixels.shape == (4, 5, 3) and (pixels == 200).all()


def test_tensorboard_after_a_resume_has_no_step_twice_and_none_missing(run_folder, events):
    first = reporter_of(run_folder, board.TensorBoard(run_folder))
    first.begin_stage("detector", 0)
    first(tick(5, stage="detector"))
    first.begin_stage("generator", 0)
    for step in (2, 4, 6):
        first(tick(step))
        first.picture(picture_at(run_folder, step), step)
    watching = events(run_folder)
    assert [step for step, _ in steps_of(watching)] == [2, 4, 6]

    again = reporter_of(run_folder, board.TensorBoard(run_folder))  # killed, and continued from the checkpoint at 4
    again.begin_stage("generator", 4)
    for step in (6, 8):
        again(tick(step))
        again.picture(picture_at(run_folder, step), step)
    watching.Reload()  # a TensorBoard that was open all the while
    for read in (events(run_folder), watching):
        assert steps_of(read) == [(2, 2.0), (4, 4.0), (6, 6.0), (8, 8.0)]
        assert [event.step for event in read.Images("counterfactuals")] == [2, 4, 6, 8]
        assert steps_of(read, "detector/adversarial") == [(5, 5.0)]


@pytest.mark.slow
def test_a_training_leaves_both(cfexplain, tmp_path, events):
    done = cfexplain("train", *TINY, "run_dir=run", "tensorboard=true")
    assert done.code == 0, done.stderr
    page = page_of(tmp_path / "run")
    assert "refresh" not in page and "<h1>done, 6/6" in page and "Newest picture: counterfactuals.png" in page
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["adversarial"]) for line in history if line["stage"] == "generator"]
    read = events(tmp_path / "run")
    assert steps_of(read) == [(step, pytest.approx(value, rel=1e-6)) for step, value in losses]
    assert [event.step for event in read.Images("counterfactuals")] == [4]  # fit.image_every_steps
