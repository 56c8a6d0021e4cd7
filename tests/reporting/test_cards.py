"""A card shows the pixels it was given and keeps every word inside its margins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from cfexplain.inspection.repair import way_images
from cfexplain.reporting.card_plots import TONES, Pen, broken, draw_position, draw_way, fitted, printable
from cfexplain.reporting.card_content import card_content, card_tiles
from cfexplain.reporting.cards import MARGIN, WIDTH, draw_card
from cfexplain.reporting.grids import PAPER, signed_difference
from tests.reporting.inspections import FALSE_ALARM_RATE, make_inspection

SENTENCES = ["This image does not count as normal.", "It would with another shape and the colour kept."]


def card(inspection, index=0, sentences=SENTENCES, class_name="blue 7") -> np.ndarray:
    drawn = draw_card(inspection, index, sentences, class_name, false_alarm_rate=FALSE_ALARM_RATE)
    assert drawn.mode == "RGB"
    return np.asarray(drawn)


def places(canvas: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """y and x at which the (h, w, 3) picture is in the canvas, pixel by pixel."""
    height, width = picture.shape[:2]
    matches = (canvas[: canvas.shape[0] - height + 1, : canvas.shape[1] - width + 1] == picture[0, 0]).all(axis=2)
    return [(y, x) for y, x in np.argwhere(matches) if (canvas[y : y + height, x : x + width] == picture).all()]


@pytest.mark.parametrize(("shape", "num_concepts"), [((1, 28, 28), 1), ((3, 32, 24), 2), ((3, 150, 150), 3)])
def test_each_picture_is_there_pixel_by_pixel(shape, num_concepts):
    inspection = make_inspection(2, num_concepts=num_concepts, shape=shape)
    canvas, factor = card(inspection, 1), 168 // max(shape[1:])
    source, edited = inspection.explanations.sources.images[1].numpy(), inspection.explanations.counterfactuals[1]
    shown = [source, inspection.nearest[1].numpy(), inspection.plausible[1].numpy()]
    for concept in range(num_concepts):
        repair = inspection.repairs[1, concept].numpy()
        shown += [edited[concept].numpy(), signed_difference(source, edited[concept].numpy()), repair]
    for pixels in shown:
        colours = np.broadcast_to(pixels, (3, *shape[1:])).transpose(1, 2, 0)
        large = np.kron(colours, np.ones((factor, factor, 1), np.uint8))
        assert places(canvas, large)


@pytest.mark.parametrize(("shape", "num_concepts", "num_bins"), [
    ((1, 28, 28), 1, 2), ((3, 28, 28), 4, 2), ((3, 256, 256), 2, 5), ((1, 256, 40), 4, 2), ((3, 3, 300), 1, 2),
])
def test_nothing_runs_over_the_edge(shape, num_concepts, num_bins):
    long = "a name that is longer than one line " * 4 + "-without-any-place-to-break-it" * 6
    inspection = make_inspection(1, num_concepts=num_concepts, num_bins=num_bins, shape=shape, prefix=long)
    inspection = replace(inspection, nearest_ids=(long,), alterations=tuple(f"{i} {long}" for i in range(5)))
    canvas = card(inspection, sentences=[long] * 3, class_name=long)
    edges = canvas[:, : MARGIN - 4], canvas[:, WIDTH - MARGIN + 4 :], canvas[: MARGIN - 4], canvas[-MARGIN + 4 :]
    assert all((edge == PAPER).all() for edge in edges)
    assert canvas.shape[1] == WIDTH and (canvas != PAPER).any(axis=(1, 2))[-2 * MARGIN :].any()


def test_the_gap_between_what_satisfies_the_detector_and_a_plausible_normal_image():
    """Of 16 pixels the least repair darkens four by 51 of 255 levels; the nearest normal image all of them by 102."""
    inspection = make_inspection(1, num_concepts=2, shape=(1, 4, 4))
    source = torch.full((1, 1, 4, 4), 204, dtype=torch.uint8)
    repairs = source[:, None].repeat(1, 2, 1, 1, 1)
    repairs[0, 0, 0, 0], repairs[0, 1, 0] = 153, 153
    sources = replace(inspection.explanations.sources, images=source)
    explanations = replace(inspection.explanations, sources=sources, source_logits=torch.ones(1), threshold=0.0)
    nearest = torch.full_like(source, 102)
    inspection = replace(
        inspection, explanations=explanations, repairs=repairs, repair_logits=-torch.ones(1, 2), nearest=nearest,
        plausible=nearest.clone(),
    )
    words = card_content(inspection, 0, SENTENCES, "").gap_words
    assert words == ("The least change found that satisfies this detector is 5.0 % of the range from black to white on "
                     "average; the nearest normal image differs by 40 %, 8.0 times as much.")
    assert "plausible" not in card_tiles(inspection, 0)
    drawn = replace(inspection, plausible=torch.full_like(source, 0))
    words = card_content(drawn, 0, SENTENCES, "").gap_words
    assert "what is drawn as a normal image, without the detector, differs by 80 %, 16.0 times as much" in words
    none = replace(inspection, repair_logits=torch.ones(1, 2))  # of repairs that still count as anomalous
    assert card_content(none, 0, SENTENCES, "").gap_words == ""


def test_long_sentences_make_a_card_higher_and_hide_nothing():
    inspection = make_inspection(1)
    short, long = card(inspection), card(inspection, sentences=["word " * 400])
    assert long.shape[0] > short.shape[0] + 100
    pictures = np.kron(inspection.nearest[0].numpy().transpose(1, 2, 0), np.ones((6, 6, 1), np.uint8))
    assert len(places(long, pictures)) == 1


def test_lines_hold_every_letter_and_fit():
    font = ImageFont.load_default(15)
    text = "short words and " + "x" * 300 + " then two  spaces"
    lines = broken(text, font, 200)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 200 for line in lines) and len(lines) > 5
    assert broken("one line", font, 200) == ["one line"]


def test_letters_that_the_font_lacks_are_replaced():
    assert printable("Prüfteil é 日本 → ok") == "Prufteil e ?? ? ok"


def test_pictures_fit_their_place():
    widths = {side: fitted(np.zeros((1, side, side), np.uint8), 168).width for side in (28, 32, 168, 256)}
    assert widths == {28: 168, 32: 160, 168: 168, 256: 168}
    assert fitted(np.zeros((3, 400, 2), np.uint8), 168).size == (1, 168)


def drawn(draw, *arguments) -> np.ndarray:
    canvas = Image.new("RGB", (320, 240), PAPER)
    draw(Pen(canvas=canvas, draw=ImageDraw.Draw(canvas)), 0, 0, *arguments)
    return np.asarray(canvas)


def middle(canvas: np.ndarray, colour: tuple[int, int, int], axis: int) -> float:
    places = (canvas == colour).all(axis=2).nonzero()
    assert len(places[0])
    return float(np.median(places[axis]))


def test_the_disc_stands_where_the_score_does():
    low, high = (middle(drawn(draw_position, 1.0, after, 0.95), TONES["holds"], 1) for after in (0.25, 0.75))
    assert low == pytest.approx(10 + 0.25 * 280, abs=2) and high == pytest.approx(10 + 0.75 * 280, abs=2)


def test_points_at_or_below_the_threshold_are_blue_and_the_curve_falls():
    way = [np.zeros((1, 4, 4), np.uint8)] * 3
    accepted = drawn(draw_way, np.array([4.0, 1.0, -2.0]), -2.0, way)
    flagged = drawn(draw_way, np.array([4.0, 1.0, -1.9]), -2.0, way)
    assert (accepted == TONES["holds"]).all(axis=2).any() and not (flagged == TONES["holds"]).all(axis=2).any()
    threshold = middle(accepted, TONES["fails"], 0)
    assert middle(accepted, TONES["holds"], 0) == pytest.approx(threshold, abs=6)
    rising = drawn(draw_way, np.array([-5.0, 1.0, 4.0]), -2.0, way)
    assert middle(rising, TONES["holds"], 1) < 160 < middle(accepted, TONES["holds"], 1)


def test_the_strip_shows_the_way_from_image_to_counterfactual():
    inspection = make_inspection(1, num_concepts=1, shape=(3, 28, 28))
    explanations = inspection.explanations
    white = replace(explanations, sources=replace(explanations.sources, images=torch.full((1, 3, 28, 28), 200).byte()),
                    images=torch.full((1, 2, 1, 3, 28, 28), 40).byte())
    canvas = card(replace(inspection, explanations=white))[:, 800:]  # the plots, beside the large pictures
    shades = [int(way_images(white.sources.images, white.images, step)[0, 0, 0, 0, 0]) for step in range(9)]
    assert shades == [200 - 20 * step for step in range(9)]
    found = [places(canvas, np.full((20, 20, 3), shade, np.uint8))[0] for shade in shades]
    assert len({y for y, _ in found}) == 1 and np.diff([x for _, x in found]).min() > 20


def test_the_verdict_is_written_in_its_colour():
    inspection = make_inspection(40)
    of = {inspection.verdict(index, 0).value: index for index in range(40)}
    fails, holds = (card(inspection, of[verdict])[:700, :400] for verdict in ("not_flipped", "ok"))

    def amount(canvas, tone):
        return int((canvas == TONES[tone]).all(axis=2).sum())

    assert amount(fails, "fails") > 100 > amount(holds, "fails") and amount(holds, "holds") > 20
