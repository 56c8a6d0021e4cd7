"""sheet.html: what it does not say, and that its script notes what a reader does (in node, with a browser's stub)."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfexplain.files import write_json
from cfexplain.inspection.sheet import KEY, draw_pairs, sheet_digest, sheet_key
from cfexplain.inspection.sheet_answers import read_answers, read_key
from cfexplain.metrics.baselines import METHODS
from cfexplain.reporting.sheet import write_sheet
from tests.inspection.sheets import pictures

NODE = shutil.which("node")
DOM = Path(__file__).with_name("sheet_dom.js")
LEFT, RIGHT, BACK = {"key": "ArrowLeft"}, {"key": "ArrowRight"}, {"key": "Backspace"}


@pytest.fixture
def sheet(tmp_path):
    """A folder with a sheet of six pairs, and the pairs."""
    pairs = draw_pairs(*pictures(6), seed=0)
    write_json(tmp_path / KEY, sheet_key(pairs))
    write_sheet(tmp_path / "sheet.html", pairs, sheet_digest(pairs))
    return tmp_path, pairs


def test_the_pictures_stand_in_the_order_of_the_key(sheet):
    folder, pairs = sheet
    found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]+)"', (folder / "sheet.html").read_text())
    wanted = []
    for pair in pairs:
        wanted += [] if pair.anomaly is None else [("the flagged picture", pair.anomaly)]
        wanted += zip(("the left picture", "the right picture"), pair.images, strict=True)
    assert [alt for alt, _ in found] == [alt for alt, _ in wanted]
    for (_, text), (_, pixels) in zip(found, wanted, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
        assert (shown == pixels.numpy().transpose(1, 2, 0)).all()


def test_the_page_does_not_say_which_is_which(sheet):
    """Without its pictures it is the page of any other draw: nothing else in it depends on what they are."""
    folder, pairs = sheet
    page = re.sub(r"base64,[^\"]+", "", (folder / "sheet.html").read_text())
    for word in (*METHODS, *(pair.source for pair in pairs)):
        assert page.replace("cfexplain-sheet", "").find(word) < 0, word
    other = draw_pairs(*pictures(6), seed=1)
    assert sheet_key(other)["pairs"] != sheet_key(pairs)["pairs"]
    write_sheet(folder / "other.html", other, sheet_digest(pairs))
    assert re.sub(r"base64,[^\"]+", "", (folder / "other.html").read_text()) == page


def test_nothing_is_fetched_and_the_policy_forbids_it(sheet):
    page = (sheet[0] / "sheet.html").read_text()
    assert "default-src 'none'" in page and "form-action 'none'" in page
    assert not re.search(r'(src|href)="(?!data:image/png)', page) and "//" not in re.sub("// .*", "", page)


def run_page(folder: Path, *steps: dict, stored: str | None = None, keeps_nothing: bool = False) -> dict:
    """What a reader saw and saved. steps: a key, a click on an element by its id, or the number of a side."""
    page = (folder / "sheet.html").read_text()
    values = {
        "script": re.search(r"<script>(.*)</script>", page, re.DOTALL)[1],
        "sheet": re.search(r'data-sheet="(\w+)"', page)[1], "numPairs": page.count("<section class=pair"),
        "ids": re.findall(r" id=(\w+)", page), "values": re.findall(r"class=side value=(\w+)", page),
        "stored": stored, "keepsNothing": keeps_nothing, "steps": steps,
    }
    done = subprocess.run([NODE, DOM], input=json.dumps(values), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: apt-get install nodejs")


@needs_node
def test_keys_and_clicks_become_a_file_that_can_be_read(sheet):
    folder, pairs = sheet
    said = run_page(folder, LEFT, {"key": "2"}, {"side": 5}, {"key": "1"}, RIGHT, RIGHT, LEFT, {"click": "save"})
    assert [step["shown"] for step in said["seen"]] == [0, 1, 2, 3, 4, 5, 6, 6, 6]
    assert said["seen"][0]["progress"] == "Pair 1 of 6" and "All 6 pairs" in said["seen"][-1]["progress"]
    (folder / "a.json").write_text(said["file"]["text"])
    (answers,) = read_answers([folder / "a.json"], read_key(folder))
    assert answers.sides.tolist() == [0, 1, 1, 0, 1, 1] and len(answers.seconds) == 6
    assert said["file"]["name"] == f"answers-{sheet_digest(pairs)}-{answers.reader}.json"


@needs_node
def test_going_back_takes_answers_off_and_no_shortcut_of_the_browser_is_taken(sheet):
    ignored = [{**LEFT, "altKey": True}, {**RIGHT, "repeat": True}, {"key": "r", "ctrlKey": True}, {"key": "Tab"}]
    said = run_page(sheet[0], BACK, LEFT, LEFT, BACK, RIGHT, *ignored, {"click": "back"}, {"click": "save"})
    assert [step["shown"] for step in said["seen"]] == [0, 0, 1, 2, 1, 2, 2, 2, 2, 2, 1, 1]
    assert [step["prevented"] for step in said["seen"]] == [False, *[True] * 5, *[False] * 6]
    assert [step["canSave"] for step in said["seen"][:3]] == [False, False, True]
    assert [answer["side"] for answer in json.loads(said["file"]["text"])["answers"]] == ["left"]


@needs_node
def test_a_page_that_is_opened_again_goes_on(sheet):
    first = run_page(sheet[0], LEFT, RIGHT)
    again = run_page(sheet[0], LEFT, {"click": "save"}, stored=first["stored"])
    assert again["seen"][0]["shown"] == 2
    before, after = json.loads(first["stored"]), json.loads(again["file"]["text"])
    assert after["reader"] == before["reader"] and after["answers"][:2] == before["answers"]
    other = run_page(sheet[0], {"click": "anew"}, RIGHT, {"click": "save"}, stored=first["stored"])
    after = json.loads(other["file"]["text"])
    assert after["reader"] != before["reader"] and [answer["side"] for answer in after["answers"]] == ["right"]


@needs_node
@pytest.mark.parametrize("stored", [
    "{", "null", "[]", '{"reader": 1, "answers": []}', '{"reader": "a"}',
    '{"reader": "a", "answers": [{"pair": 1, "side": "left", "seconds": 1}]}',
    '{"reader": "a", "answers": [{"pair": 0, "side": "up", "seconds": 1}]}',
])
def test_what_the_browser_kept_is_checked(sheet, stored):
    said = run_page(sheet[0], LEFT, stored=stored)
    assert [step["shown"] for step in said["seen"]] == [0, 1]


@needs_node
def test_a_browser_that_keeps_nothing_is_told_to_the_reader(sheet):
    said = run_page(sheet[0], LEFT, {"click": "save"}, keeps_nothing=True)
    assert "save your answers before you close it" in said["seen"][-1]["kept"]
    assert len(json.loads(said["file"]["text"])["answers"]) == 1
