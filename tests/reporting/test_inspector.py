"""The inspector's file: what is in it, what keeps it self-contained, and how it is written."""

import base64
import io
import json
import weakref
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cfexplain.reporting.inspector as inspector
from cfexplain.inspection.base import VERDICTS
from cfexplain.reporting.card_content import card_tiles, heatmap
from cfexplain.reporting.inspector import NUM_STILLS, Section, write_inspector
from cfexplain.reporting.tables import Table
from cfexplain.reporting.verdict_words import logit_words
from tests.reporting.inspections import FALSE_ALARM_RATE, items_of, make_inspection, sentence


class Page(HTMLParser):
    """items: what each card says; pictures: its WebP file; counts: verdict -> cell texts of its row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.items, self.pictures, self.counts, self.sources = [], [], {}, []
        self.page, self.num_stills, self._script, self._row = {}, text.count('<section class="still">'), None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self._script = attributes if tag == "script" else None
        if tag == "tr":
            self._row = attributes.get("data-verdict")
        self.sources += [attributes[name] for name in ("src", "href") if attributes.get(name)]

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is None:
            if self._row and data.strip():
                self.counts.setdefault(self._row, []).append(data.strip())
        elif self._script.get("class") == "item":
            self.items.append(json.loads(data))
        elif self._script.get("type") == "text/plain":
            self.pictures.append(base64.b64decode(data, validate=True))
        elif self._script.get("id") == "page":
            self.page = json.loads(data)


def counts_of(*inspections) -> Counter:
    codes = [code for inspection in inspections for code in inspection.verdict_codes.flatten().tolist()]
    return Counter(VERDICTS[code].value for code in codes)


def written(file: Path, inspections, counts=None, **changes) -> Page:
    values = {
        "title": "A title", "facts": {"model": "m"}, "false_alarm_rate": FALSE_ALARM_RATE, "metrics": {},
        "meanings": {}, **changes,
    }
    class_names = values.pop("class_names", ("zero", "one", "two"))
    sentences = values.pop("sentences", sentence)
    counts = counts_of(*inspections) if counts is None else counts
    items = items_of(file.parent, inspections, class_names, sentences, num_images=sum(counts.values()) // 2)
    write_inspector(file, counts=counts, items=items, **values)
    return Page(file.read_text(encoding="utf-8"))


def test_the_top_counts_every_verdict_as_the_cards_do(tmp_path):
    inspections = [make_inspection(30, seed=0), make_inspection(30, seed=1, prefix="b/")]
    page = written(tmp_path / "report.html", inspections)
    told = {verdict: int(cells[2]) for verdict, cells in page.counts.items()}
    in_cards = Counter(concept["verdict"] for item in page.items for concept in item["concepts"])
    assert told == {verdict.value: in_cards[verdict.value] for verdict in VERDICTS}
    assert sum(told.values()) == 120 and len([count for count in told.values() if count]) >= 4
    assert [item["name"] for item in page.items] == [f"{part}{i:05d}" for part in ("test/", "b/") for i in range(30)]


def test_counts_that_disagree_with_the_cards_write_nothing(tmp_path):
    inspection = make_inspection(4)
    wrong = counts_of(inspection) + Counter(ok=1)
    with pytest.raises(AssertionError, match="verdicts"):
        written(tmp_path / "report.html", [inspection], wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shape", "num_bins"), [((1, 20, 28), 2), ((3, 32, 32), 4)])
def test_the_pictures_come_back_bit_for_bit(tmp_path, shape, num_bins):
    inspection = make_inspection(3, num_concepts=3, num_bins=num_bins, shape=shape)
    page = written(tmp_path / "report.html", [inspection])
    layout = page.page
    expected = card_tiles(inspection, 1)
    assert set(layout["tiles"]) == set(expected) and ("0 bin 1" in expected) == (num_bins > 2)
    sprite = np.asarray(Image.open(io.BytesIO(page.pictures[1])).convert("RGB"))
    height, width = shape[1:]
    for number, name in enumerate(layout["tiles"]):
        top, left = number // layout["columns"] * height, number % layout["columns"] * width
        assert (sprite[top : top + height, left : left + width] == expected[name].transpose(1, 2, 0)).all(), name
    assert (expected["1 counterfactual"] == inspection.explanations.images[1, 0, 1].numpy()).all()
    assert (expected["nearest"] == inspection.nearest[1].numpy()).all()


def test_too_many_large_pictures_are_compressed_with_loss_and_the_page_says_so(tmp_path, monkeypatch):
    inspection = make_inspection(4, shape=(3, 64, 64))
    exact = written(tmp_path / "exact.html", [inspection])
    monkeypatch.setattr(inspector, "MAX_LOSSLESS_BYTES", 4 * 7 * 3 * 64 * 64 - 1)  # four images with seven pictures
    lossy = written(tmp_path / "lossy.html", [inspection])
    assert exact.page["lossless"] and not lossy.page["lossless"]
    assert len(lossy.pictures[0]) < len(exact.pictures[0])
    assert "compressed with loss" in (tmp_path / "lossy.html").read_text()
    assert "compressed with loss" not in (tmp_path / "exact.html").read_text()


def test_hostile_names_stay_text(tmp_path):
    name = '</script><script>alert(1)</script><!--"&<b>\u2028'
    inspection = make_inspection(2, prefix=name)
    section = Section(title="<i>", notes=["<u>"], pictures=[], table=Table(headings=["<s>"], rows=[["<q>"]]))
    page = written(tmp_path / "report.html", [inspection], title=name, facts={name: name}, class_names=(name,) * 3,
                   sections=[section], notes=["<em>"])
    assert [item["name"] for item in page.items] == [f"{name}00000", f"{name}00001"]
    assert page.items[0]["class_name"] == name and page.page["title"] == name
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert not any(f"<{tag}>" in text for tag in ("i", "u", "s", "q", "em"))


def test_nothing_is_fetched(tmp_path):
    picture = Image.new("RGB", (4, 4))
    section = Section(title="Atlas", notes=[], pictures=[("a", picture)])
    page = written(tmp_path / "report.html", [make_inspection(2)], sections=[section])
    assert all(source.startswith(("data:image/", "#")) for source in page.sources) and len(page.sources) > 4
    assert "default-src 'none'" in (tmp_path / "report.html").read_text()


def test_one_inspection_at_a_time_is_held(tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    def inspections():
        nonlocal most
        for seed in range(6):
            made = make_inspection(2, seed=seed, prefix=f"{seed}/")
            alive.append(weakref.ref(made))
            yield made
            most = max(most, sum(reference() is not None for reference in alive))
            del made
            assert not (tmp_path / "report.html").exists()

    counts = counts_of(*(make_inspection(2, seed=seed) for seed in range(6)))
    page = written(tmp_path / "report.html", inspections(), counts)
    assert len(page.items) == 12 and most <= 2  # the one just drawn, and the one before it until its name is reused


def test_a_failure_halfway_keeps_the_old_report(tmp_path):
    (tmp_path / "report.html").write_text("old")

    def failing():
        yield make_inspection(2)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        written(tmp_path / "report.html", failing(), {"ok": 1})
    assert (tmp_path / "report.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_without_javascript_the_first_images_are_there(tmp_path):
    page = written(tmp_path / "report.html", [make_inspection(NUM_STILLS + 7)])
    assert page.num_stills == NUM_STILLS and len(page.items) == NUM_STILLS + 7


def test_a_report_on_no_image_opens(tmp_path):
    page = written(tmp_path / "report.html", [], Counter())
    assert page.items == [] and page.counts["ok"][2] == "0"


def test_own_images_have_no_class(tmp_path):
    page = written(tmp_path / "report.html", [make_inspection(2, num_classes=0)], class_names=())
    assert [item["class_name"] for item in page.items] == ["", ""]


def test_a_score_is_not_rounded_to_its_ends():
    assert [logit_words(logit) for logit in (-9.0, 0.0, 9.0)] == ["below 0.001", "0.500", "above 0.999"]
    assert logit_words(float(np.log(0.25 / 0.75))) == "0.250"


def test_the_share_that_a_repair_saves():
    inspection = make_inspection(1, num_concepts=2, shape=(1, 2, 2))
    explanations = inspection.explanations
    explanations.sources.images.zero_(), explanations.images.zero_(), inspection.repairs.zero_()
    explanations.counterfactuals[0, 0] = torch.tensor([[[100, 100], [0, 200]]]).byte()
    inspection.repairs[0, 0] = torch.tensor([[[100, 0], [0, 0]]]).byte()
    assert inspection.change_sizes.excess_change[0, 0] == pytest.approx(0.75)
    assert inspection.change_sizes.excess_change[0, 1] == 0


def test_what_a_repair_is_said_to_save(tmp_path):
    inspection = make_inspection(40, seed=3)
    inspection.explanations.source_logits[0] = -5.0  # below the threshold
    page = written(tmp_path / "report.html", [inspection])
    for index, item in enumerate(page.items):
        for number, concept in enumerate(item["concepts"]):
            words, passes = concept["repair_words"], bool(inspection.repair_logits[index, number] <= item["threshold"])
            if item["logit"] <= item["threshold"]:
                assert "nothing to repair" in words
            else:
                assert ("does without 50 %" in words) == passes and ("stays above" in words) != passes
    assert "nothing to repair" in page.items[0]["concepts"][0]["repair_words"]


def test_a_heatmap_has_two_colours_about_a_neutral_one():
    low, none, high = heatmap(np.array([[-1.0, 0.0, 1.0]])).transpose(1, 2, 0)[0].astype(int)
    assert np.ptp(none) == 0 and low[2] > low[1] and high[0] > high[2] + 100
