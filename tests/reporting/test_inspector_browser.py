"""The inspector in a headless Chromium: it is filtered, a card is opened and moved along, and nothing is fetched."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cfexplain.inspection.base import VERDICTS
from cfexplain.inspection.repair import way_images
from cfexplain.reporting.grids import signed_difference
from cfexplain.reporting.inspector import NUM_STILLS, write_inspector
from cfexplain.reporting.verdict_words import logit_words
from tests.reporting.contrast import MIN_CONTRAST, contrasts, luminance
from tests.reporting.inspections import FALSE_ALARM_RATE, items_of, make_inspection

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]
NUM_IMAGES, PER_PAGE = 120, 48
INSPECTION = make_inspection(NUM_IMAGES, num_bins=3, shape=(3, 28, 28))
# Of a canvas, made smaller to what one of its squares shows; drawn elsewhere, for reading a canvas often has a price.
PIXELS = """(canvas, [width, height]) => {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, 0, 0, width, height);
    return [...context.getImageData(0, 0, width, height).data];
}"""
COUNT_DECODED = """
    window.numDecoded = 0;
    const decode = HTMLImageElement.prototype.decode;
    HTMLImageElement.prototype.decode = function () { window.numDecoded++; return decode.call(this); };
"""


def write(file: Path, *inspections) -> Path:
    codes = [code for inspection in inspections for code in inspection.verdict_codes.flatten().tolist()]
    write_inspector(
        file, "Explanations", {"trained model": "outputs/train/a"}, Counter(VERDICTS[code].value for code in codes),
        items_of(file.parent, inspections, ("zero", "one", "two")), false_alarm_rate=FALSE_ALARM_RATE,
        metrics={"validity": 0.9},
        meanings={"validity": ("share of counterfactuals that the detector accepts", "1")},
    )
    return file


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("report") / "report.html", INSPECTION)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, report):
    """Opens the report; at the end there must have been no error, no word in the console and no request but for it."""
    contexts, complaints = [], []

    def opened(file: Path = report, address: str = "", width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(COUNT_DECODED)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend(
            [] if request.url.startswith(("data:", file.as_uri())) else [request.url]))
        page.goto(file.as_uri() + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def shown_names(page) -> list[str]:
    return page.locator("#entries .name").all_inner_texts()


def open_card(page, name: str):
    page.get_by_role("link", name=name).click()
    playwright.expect(page.locator("#card-title")).to_have_text(name)


def wait_until(page, expression: str) -> None:
    """Playwright's own wait_for_function evaluates text in the page, which the page forbids."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def canvas_pixels(locator, width: int = 28, height: int = 28) -> np.ndarray:
    """(4, height, width) uint8, RGBA, of a canvas that shows each pixel as a square."""
    values = locator.evaluate(PIXELS, [width, height])
    return np.array(values, np.uint8).reshape(height, width, 4).transpose(2, 0, 1)


def colours(locator) -> np.ndarray:
    """(3, 28, 28) uint8."""
    return canvas_pixels(locator)[:3]


def test_filters_and_orders_agree_with_the_verdicts(open_page):
    page = open_page()
    ids, codes = INSPECTION.explanations.sources.ids, INSPECTION.verdict_codes
    status = page.get_by_role("status")
    playwright.expect(status).to_have_text(f"120 of 120 images, 1 to {PER_PAGE} shown")
    assert shown_names(page) == list(ids[:PER_PAGE])

    page.get_by_role("combobox", name="Verdict").select_option("adversarial")
    wanted = [name for name, of in zip(ids, codes.tolist(), strict=True) if VERDICTS.index("adversarial") in of]
    assert 0 < len(wanted) <= PER_PAGE and shown_names(page) == wanted
    playwright.expect(status).to_have_text(f"{len(wanted)} of 120 images")

    page.get_by_role("combobox", name="Concept").select_option("1")
    wanted = [ids[index] for index in range(NUM_IMAGES) if INSPECTION.verdict(index, 1) == "adversarial"]
    assert shown_names(page) == wanted

    page.get_by_role("combobox", name="Verdict").select_option("")
    page.get_by_role("combobox", name="Class").select_option("two")
    page.get_by_role("combobox", name="Order").select_option("highest")
    logits = INSPECTION.explanations.source_logits
    wanted = sorted(range(2, NUM_IMAGES, 3), key=lambda index: -float(logits[index]))
    assert shown_names(page) == [ids[index] for index in wanted]

    page.get_by_role("searchbox", name="Name").fill(" 0011 ")
    assert sorted(shown_names(page)) == [f"test/{index:05d}" for index in (11, 110, 113, 116, 119)]
    page.get_by_role("searchbox", name="Name").fill("no such name")
    playwright.expect(status).to_have_text("0 of 120 images")


def test_pages_follow_each_other_and_pictures_of_later_ones_are_not_decoded(open_page):
    page = open_page()
    wait_until(page, "numDecoded >= 48")
    assert page.evaluate("numDecoded") == PER_PAGE
    page.get_by_role("button", name="Next page").click()
    assert shown_names(page)[0] == "test/00048" and page.get_by_role("button", name="Previous page").is_enabled()
    page.get_by_role("button", name="Next page").click()
    assert len(shown_names(page)) == NUM_IMAGES - 2 * PER_PAGE
    assert page.get_by_role("button", name="Next page").is_disabled()


def test_a_thumbnail_shows_the_image_and_its_counterfactuals(open_page):
    page = open_page()
    wait_until(page, "numDecoded >= 48")
    canvas = page.locator("#entries canvas").first
    width = int(canvas.get_attribute("width"))
    while not (drawn := canvas_pixels(canvas, width, 120)[:, 60].T)[-1, 3]:  # its last pixel is still transparent
        page.wait_for_timeout(50)
    explanations = INSPECTION.explanations
    for place, image in enumerate((explanations.sources.images[0], *explanations.counterfactuals[0])):
        assert np.abs(drawn[place * 128 + 60, :3].astype(int) - image[:, 14, 14].numpy()).max() <= 1


def test_the_keyboard_goes_through_list_and_cards(open_page):
    page = open_page()
    page.locator("#entries a").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    title = page.locator("#card-title")
    playwright.expect(title).to_have_text("test/00002")
    playwright.expect(title).to_be_focused()
    assert page.get_by_text("Sentence on test/00002.").is_visible() and not page.locator("#entries").is_visible()
    page.keyboard.press("ArrowRight")
    playwright.expect(title).to_have_text("test/00003")
    page.keyboard.press("ArrowLeft")
    playwright.expect(title).to_have_text("test/00002")
    page.keyboard.press("Escape")
    link = page.get_by_role("link", name="test/00002")
    playwright.expect(link).to_be_focused()
    per_row = link.evaluate("a => [...document.querySelectorAll('#entries a')].filter(b => "
                            "b.offsetTop === document.querySelector('#entries a').offsetTop).length")
    assert per_row > 1
    page.keyboard.press("ArrowDown")
    playwright.expect(page.get_by_role("link", name=f"test/{2 + per_row:05d}")).to_be_focused()


def test_an_address_opens_a_card_within_the_filtered_list(open_page):
    page = open_page(address="#image=test%2F00077")
    playwright.expect(page.locator("#card-title")).to_have_text("test/00077")
    assert page.locator("#place").inner_text() == "78 of 120" and "test/00077" in page.title()
    page.get_by_role("link", name="Back to the list").click()
    page.get_by_role("searchbox", name="Name").fill("0007")
    open_card(page, "test/00079")
    assert page.locator("#place").inner_text() == "11 of 11"
    assert page.get_by_role("button", name="Next", exact=True).is_disabled()


def test_the_slider_shows_the_measured_way(open_page):
    page, index, concept = open_page(), 4, 1
    open_card(page, "test/00004")
    explanations, part = INSPECTION.explanations, page.locator(".concept").nth(concept)
    slider, canvas, readout = part.get_by_role("slider"), part.locator(".way > canvas"), part.locator(".readout")
    slider.focus()
    heights = []
    for step in (0, 3, 8):
        page.keyboard.press("Home")
        for _ in range(4 * step):
            page.keyboard.press("ArrowRight")
        expected = way_images(explanations.sources.images, explanations.images, step)[index, concept].numpy()
        # Halves are rounded up in a browser and to the even number in Python.
        assert np.abs(colours(canvas).astype(int) - expected).max() <= 1
        score = logit_words(float(INSPECTION.way_logits[index, concept, step]))
        assert f"score {score}; " in readout.inner_text() and "between" not in readout.inner_text()
        assert slider.get_attribute("aria-valuetext") == readout.inner_text()
        heights.append(float(part.locator("circle.now").get_attribute("cy")))
        threshold = float(part.locator(".way line.limit").get_attribute("y1"))
        is_accepted = float(INSPECTION.way_logits[index, concept, step]) <= explanations.threshold
        assert (heights[-1] >= threshold) == is_accepted == ("accepted" in readout.inner_text())
    assert heights == sorted(heights) and heights[0] < heights[-1] - 20
    page.keyboard.press("ArrowLeft")
    assert "between two measured points" in readout.inner_text()


def test_a_card_shows_what_was_measured(open_page):
    index = next(index for index in range(NUM_IMAGES) if INSPECTION.verdict(index, 0) == "adversarial")
    page, explanations = open_page(), INSPECTION.explanations
    open_card(page, explanations.sources.ids[index])
    source, edited = explanations.sources.images[index].numpy(), explanations.counterfactuals[index, 0].numpy()
    top, part = page.locator("#card > .pictures canvas"), page.locator(".concept").first
    pictures = part.locator(".pictures").first.locator("canvas")
    assert (colours(top.nth(0)) == source).all()
    assert (colours(top.nth(1)) == INSPECTION.nearest[index].numpy()).all()
    assert (colours(pictures.nth(0)) == edited).all()
    difference = colours(pictures.nth(1)).astype(int) - signed_difference(source, edited)
    assert np.abs(difference).max() <= 1
    assert (colours(pictures.nth(2)) == INSPECTION.repairs[index, 0].numpy()).all()
    assert part.locator(".strip canvas").count() == 3  # three alpha bins

    assert part.locator("h3").inner_text().split() == ["Concept", "0", "adversarial"]
    listed = {line.split(": ")[0]: line.split(": ")[1] for line in part.locator(".survives li").all_inner_texts()}
    survives = INSPECTION.survives[index, 0].tolist()
    assert listed == {name.replace("_", " "): "accepted" if kept else "flagged"
                      for name, kept in zip(INSPECTION.alterations, survives, strict=True)}
    assert "flagged" in listed.values()
    before, after = float(INSPECTION.position_before[index]), float(INSPECTION.position_after[index, 0])
    bar = part.locator("svg").first
    assert float(bar.locator("circle.after").get_attribute("cx")) == pytest.approx(12 + 336 * after, abs=0.01)
    assert f"higher than {100 * before:.1f} %" in bar.get_attribute("aria-label")
    assert page.locator("#card canvas:not([role=img][aria-label]), #card svg:not([role=img][aria-label])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_can_be_read(open_page, tmp_path, width, scheme):
    name = "folder/with a long name/" + "and-no-place-to-break-it" * 5
    large = make_inspection(12, num_concepts=4, num_bins=4, shape=(1, 96, 160), prefix=name)
    page = open_page(write(tmp_path / "report.html", large), width=width, color_scheme=scheme)
    for address in ("", "#image=" + name + "00003"):
        page.goto((tmp_path / "report.html").as_uri() + address)
        playwright.expect(page.locator("#card-view" if address else "#entries li").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = contrasts(page)
        assert len(found) > 20 and {text for text, value in found.items() if value < MIN_CONTRAST} == set()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")


def test_on_paper_the_summary_and_the_opened_card_remain(open_page):
    page = open_page(address="#image=test%2F00005", color_scheme="dark")
    playwright.expect(page.locator("#card-title")).to_have_text("test/00005")
    page.emulate_media(media="print")
    assert page.locator("#counts").is_visible() and page.locator("#card").is_visible()
    assert not page.locator("#images").is_visible() and not page.get_by_role("slider").first.is_visible()
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) == 1
    num_pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True)))
    assert 2 <= num_pages <= 5


def test_on_paper_the_list_is_complete(open_page):
    page = open_page()
    wait_until(page, "numDecoded >= 48")
    page.emulate_media(media="print")
    assert page.locator("#counts").is_visible() and page.locator("#entries li").count() == PER_PAGE
    assert not page.locator("#filters").is_visible()


def test_without_javascript_summary_and_first_images_can_be_read(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#counts tr").count() == 1 + len(VERDICTS) and page.locator(".still").count() == NUM_STILLS
    first = page.locator(".still").first
    assert first.get_by_role("img", name="Sentence on test/00000.").is_visible()
    assert not page.locator("#filters").is_visible() and page.locator("noscript p").first.is_visible()
