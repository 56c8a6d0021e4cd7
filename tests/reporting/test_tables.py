"""The table says what metrics.json says."""

import io
import json

from cfexplain.metrics.auroc import Auroc
from cfexplain.files import write_json
from cfexplain.reporting.html import write_report
from cfexplain.reporting.tables import method_table, metric_table, print_metrics

MEANINGS = Auroc.meanings


def rows_of(metrics, meanings=MEANINGS) -> dict[str, dict[str, str]]:
    """Metric -> heading -> text."""
    table = metric_table(metrics, meanings)
    return {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}


METRICS = {
    "cf_auroc": 0.51234, "cf_auroc_low": 0.48, "cf_auroc_high": 0.5449, "cf_auroc_concept_1": 0.25,
    "fid_features": "classifier-abc", "fid_images": 40, "low": 0.125,
}


def test_each_number_of_the_file_is_in_the_table_once(tmp_path):
    write_json(tmp_path / "metrics.json", METRICS)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [(key, row["value"], row["95 % interval"]) for key, row in rows_of(metrics).items()] == [
        ("cf_auroc", "0.512", "0.480 to 0.545"),
        ("cf_auroc_concept_1", "0.250", ""),
        ("fid_features", "classifier-abc", ""),
        ("fid_images", "40", ""),
        ("low", "0.125", ""),
    ]


def test_a_concept_row_has_the_ideal_of_its_metric():
    rows = rows_of(METRICS)
    assert rows["cf_auroc"]["ideal"] == rows["cf_auroc_concept_1"]["ideal"] == "0.5"
    assert rows["cf_auroc_concept_1"]["meaning"] == "the same for concept 1"


def test_an_end_without_its_metric_is_a_row_of_its_own():
    assert list(rows_of({"a_low": 0.5, "b": 1.0, "b_low": 0.5}, {})) == ["a_low", "b"]


def test_rows_are_not_cut_without_a_terminal():
    stream = io.StringIO()
    print_metrics(METRICS, MEANINGS, stream)
    (line,) = [line for line in stream.getvalue().splitlines() if line.split()[:1] == ["cf_auroc"]]
    assert "0.512" in line and "0.480 to 0.545" in line and "counterfactuals" in line


def test_the_page_needs_no_other_file_and_escapes_names(tmp_path):
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    pictures = [("pic", tmp_path / "a.png")]
    write_report(tmp_path / "report.html", "<run>", {"model": "a&b"}, pictures, METRICS, MEANINGS, ["<n>"])
    page = (tmp_path / "report.html").read_text()
    assert "&lt;run&gt;" in page and "a&amp;b" in page and "&lt;n&gt;" in page and "<run>" not in page
    assert 'src="data:image/png;base64,' in page and "http" not in page.replace("http-equiv", "")
    assert all(row["value"] in page for row in rows_of(METRICS).values())


def test_baselines_have_a_table_of_their_own():
    own = {"validity": 0.9, "validity_low": 0.8, "validity_high": 1.0}
    metrics = {
        **own, "baseline_images": 50, **{f"baseline_cfexplain_{key}": value for key, value in own.items()},
        "baseline_gradient_validity": 1.0, "baseline_gradient_survival": 0.01, "baseline_nearest_validity": 0.5,
    }
    assert list(rows_of(metrics)) == ["validity"]
    table = method_table(metrics, {"validity": ("", "1")})
    assert table.headings == ["method", "validity", "survival"] and "50 images" in table.title
    assert table.rows == [
        ["cfexplain", "0.900", "-"], ["nearest", "0.500", "-"], ["gradient", "1.000", "0.010"],
        ["autoencoder", "-", "-"], ["ideal", "1", ""],
    ]
    assert method_table(own, MEANINGS) is None
