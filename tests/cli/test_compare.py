"""evaluate compare=: trained runs side by side. And evaluate metric=[..., baselines], which compares methods."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfexplain.cli import main
from cfexplain.inspection.comparison import RunVerdicts, best_concepts
from cfexplain.inspection.base import VERDICTS, Verdict
from cfexplain.inspection.changes import measured_change
from cfexplain.inspection.sentences import change_words
from cfexplain.metrics.agreement import agreement, cohens_kappa
from cfexplain.metrics.baselines import METHODS
from cfexplain.reporting.comparison import ComparedImage, RunView, shown_images
from tests.conftest import TINY, run_cfexplain

CODE = {verdict: index for index, verdict in enumerate(VERDICTS)}


def test_kappa_by_hand():
    # 4 times both yes, 3 times both no, 1 yes-no, 2 no-yes: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    first = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    second = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0], dtype=bool)
    assert cohens_kappa(first, second) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert cohens_kappa(first, first) == 1.0 and cohens_kappa(first, ~first) == pytest.approx(-1.0)
    assert cohens_kappa(first, np.ones(10, dtype=bool)) == 0.0  # one that always says yes knows nothing
    assert cohens_kappa(np.ones(3, dtype=bool), np.ones(3, dtype=bool)) is None


def test_kappa_is_that_of_scikit_learn():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.random(50) < 0.6, rng.random(50) < 0.4
        assert cohens_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_agreement_counts_rows_in_which_all_say_the_same():
    assert agreement(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [2, 2, 2]])) == 0.75


def test_the_best_concept_has_the_best_verdict_then_the_lowest_score():
    codes = torch.tensor([[CODE[Verdict.adversarial], CODE[Verdict.ok]], [CODE[Verdict.ok], CODE[Verdict.ok]],
                          [CODE[Verdict.not_flipped], CODE[Verdict.not_flipped]]])
    logits = torch.tensor([[-9.0, -1.0], [-1.0, -2.0], [3.0, 4.0]])
    assert best_concepts(codes, logits).tolist() == [1, 1, 0]


def verdicts_of(anomalous, verdicts):
    """Of images with one concept."""
    empty = torch.zeros(len(anomalous))
    return RunVerdicts(
        names=tuple("abcdef"), classes=empty.long(), logits_before=empty, is_anomalous=torch.tensor(anomalous),
        codes=torch.tensor([[CODE[verdict]] for verdict in verdicts]), concepts=empty.long(), logits_after=empty,
        l1_distances=empty, changed_fractions=empty, accepted=None,
    )


def test_disagreements_are_shown_first_then_other_verdicts():
    ok, adversarial, normal = Verdict.ok, Verdict.adversarial, Verdict.already_normal
    first = verdicts_of([True] * 6, [ok] * 6)
    second = verdicts_of([True, True, False, True, True, False], [ok, adversarial, normal, ok, adversarial, normal])
    assert shown_images([first, second], 5) == [2, 5, 1, 4, 0]
    assert shown_images([first, second], 1) == [2]
    assert sorted(shown_images([first, second], 100)) == list(range(6))


def view(name="a", before=2.0, after=-2.0, verdict=Verdict.ok, accepted_by=None):
    source = torch.zeros(3, 8, 8, dtype=torch.uint8)
    source[1, 2:6, 2:6] = 255
    target = source.flip(0).roll(1, 0)  # the square in red
    return RunView(
        name=name, source=source, counterfactuals=target[None], logits=torch.tensor([after]), source_logit=before,
        threshold=0.0, verdicts=(verdict,), best=0, accepted_by=accepted_by or {},
    )


def test_a_sentence_says_what_would_have_to_change():
    said = view(accepted_by={"b": False}).sentence
    change = change_words(measured_change(view().source, view().counterfactuals[0]))
    assert said == (
        f"Anomalous: score 0.881, limit 0.500. Normal with {change}: score 0.119 (concept 0, ok). b does not accept it."
    )
    assert view(before=-2.0, verdict=Verdict.already_normal).sentence == (
        "Normal: score 0.119, limit 0.500. Nothing would have to change."
    )
    assert view(after=1.0, verdict=Verdict.not_flipped).sentence.endswith("the lowest score reached is 0.731.")


def test_the_mark_of_an_image():
    def mark(*views):
        return ComparedImage(id="x", class_name="", views=views).mark

    assert mark(view(), view(before=-2.0, verdict=Verdict.already_normal)) == "disagree"
    assert mark(view(), view(verdict=Verdict.adversarial)) == "other verdicts"
    assert mark(view(), view()) == "same"


MISTAKES = {
    "one run": (["compare=[runs/bce]"], 2, "compare needs two runs"),
    "the same run twice": (["compare=[runs/bce,runs/bce]"], 2, "names runs/bce twice"),
    "no such run": (["compare=[runs/bce,runs/none]"], 3, "no run at runs/none"),
    "no generator": (["compare=[runs/bce,runs/half]"], 3, "no trained generator"),
    "another size": (["compare=[runs/bce,runs/grey]"], 2, "different sizes (a 3x28x28, b 1x32x32)"),
    "beside run": (["compare=[runs/bce,runs/hsc]", "run=runs/bce"], 2, "give one of run="),
    "images without compare": (["run=runs/bce", "images=[x.png]"], 2, "images= goes with compare="),
    "images missing": (["compare=[runs/bce,runs/hsc]", "images=[none/*.png]"], 3, "nothing matches none/*.png"),
}


GREY = [  # a run whose images have another size
    "dataset=folder", "dataset.root=parts", "dataset.image_size=32", "dataset.channels=1", "exposure.limit=40",
    "encoder=conv", "generator=conv_small", "detector.batch_size=16", "fit.steps=2", "fit.batch_size=8",
    "fit.image_every_steps=2", *(word for word in TINY if word.split("=")[0] in ("encoder.width", "runtime") or
                                 word.startswith("generator.")), "detector.steps=20",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, session_cache) -> Path:
    """runs/: bce, hsc, grey (another size), half (no generator); photos/: ten colour pictures."""
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    for part, count, least in (("parts/normal", 60, 0), ("parts/anomalous", 12, 128), ("photos", 10, 128)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(least, least + 128, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{number:02d}.png")
    wanted = {"bce": TINY, "hsc": [*TINY, "detector=hsc"], "half": [*TINY, "stage=detector"], "grey": GREY}
    for name, words in wanted.items():
        done = run_cfexplain(folder, session_cache, "train", *words, f"run_dir=runs/{name}")
        assert done.code == 0, done.stderr
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(inside, capsys, name):
    args, code, words = MISTAKES[name]
    before = sorted(inside.glob("outputs/evaluate/*/*"))
    assert main(["evaluate", "runtime=cpu", *args]) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]
    if code == 2 and name != "another size":  # that one opens both runs before it knows
        assert sorted(inside.glob("outputs/evaluate/*/*")) == before


@pytest.mark.slow
def test_two_runs_on_the_test_anomalies(inside):
    compare = ["evaluate", "compare=[runs/bce,runs/hsc]", "runtime=cpu", "second_detector=none"]
    assert main([*compare, "num_compared_images=7", "run_dir=ab"]) == 0
    rows, metrics, page = rows_of(inside / "ab"), metrics_of(inside / "ab"), (inside / "ab/report.html").read_text()
    assert len(rows) == metrics["num_images"] == 40 and len({row["id"] for row in rows}) == 40
    for name in "ab":
        above = [float(row[f"{name}_logit_before"]) > float(row[f"{name}_logit_threshold"]) for row in rows]
        assert above == [row[f"{name}_is_anomalous"] == "True" for row in rows]
        assert sum(above) == metrics[f"num_anomalous_{name}"]
        verdicts = [row[f"{name}_verdict"] for row in rows]
        assert [metrics[f"num_{verdict}_{name}"] for verdict in VERDICTS] == [verdicts.count(v) for v in VERDICTS]
        assert all((verdict == "already_normal") != said for verdict, said in zip(verdicts, above, strict=True))
    first, second = (np.array([row[f"{name}_is_anomalous"] == "True" for row in rows]) for name in "ab")
    assert [row["agree"] == "True" for row in rows] == (first == second).tolist()
    assert metrics["agreement"] == pytest.approx((first == second).mean())
    kappa = cohens_kappa(first, second)
    assert metrics.get("cohens_kappa") == (None if kappa is None else pytest.approx(kappa))
    assert page.count("<section class=image>") == 7 and not re.search(r"(src|href)=\"?https?:", page)
    order = ["disagree", "other verdicts", "same"]
    marks = [order.index(mark) for mark in re.findall(r"<span class=mark>([^<]+)</span>", page)]
    assert marks == sorted(marks) and len(marks) == 7
    assert main(["evaluate", "runs=[runs/bce,runs/hsc,ab]", "run_dir=summary"]) == 0
    cells = json.loads((inside / "summary/summary.json").read_text())["cells"]
    assert sorted(Path(cell["cell"]).name for cell in cells) == ["bce", "hsc"]  # a comparison is no model


@pytest.mark.slow
def test_verdicts_are_those_of_explain(inside):
    assert main(["evaluate", "compare=[runs/hsc,runs/bce]", "runtime=cpu", "second_detector=none", "run_dir=ba"]) == 0
    assert main(["explain", "run=runs/hsc", "runtime=cpu", "second_detector=none", "run_dir=x", "num_cards=0"]) == 0
    with (inside / "x/samples.csv").open(newline="") as file:
        known = {(row["id"], row["concept"]): row for row in csv.DictReader(file)}
    for row in rows_of(inside / "ba"):
        sample = known[row["id"], row["a_concept"]]
        assert row["a_verdict"] == sample["verdict"]
        assert float(row["a_score_after"]) == pytest.approx(float(sample["score_after"]), abs=1e-5)
        others = [VERDICTS.index(known[row["id"], str(concept)]["verdict"]) for concept in range(2)]
        assert VERDICTS.index(row["a_verdict"]) == max(others)


@pytest.mark.slow
def test_own_images_are_taken_by_runs_of_different_sizes(inside):
    words = ["evaluate", "compare=[runs/bce,runs/grey]", "images=[photos]", "runtime=cpu", "second_detector=none"]
    assert main([*words, "run_dir=own"]) == 0
    rows = rows_of(inside / "own")
    assert [row["id"] for row in rows] == [f"photos/{number:02d}.png" for number in range(10)]
    assert "a_convinces_b" not in rows[0] and "a_convinces_b" not in metrics_of(inside / "own")


@pytest.mark.slow
def test_baselines_stand_in_the_table_and_in_the_report(inside, capsys):
    """And the second detector is fitted once for transfer and for all four methods."""
    words = ["metric=[validity,distance,transfer,baselines]", "metric.baselines.num_images=10",
             "metric.baselines.autoencoder_steps=3", "metric.baselines.autoencoder_width=2",
             "cache_dir=another-cache"]  # where no second detector is kept yet
    # a cache of its own: explain's second detector, if some test kept it, would stand in for the fit
    assert main(["evaluate", "run=runs/bce", "runtime=cpu", "run_dir=e", "cache_dir=own-cache", *words]) == 0
    said, metrics = capsys.readouterr().out, metrics_of(inside / "e")
    page = (inside / "e/report.html").read_text()
    assert metrics["baseline_images"] == 10
    lines = {line.split()[0]: line.split()[1:] for line in said[said.index("Compared with baselines"):].splitlines()
             if line.split()[:1] and line.split()[0] in METHODS}
    keys = ("validity", "l1_distance", "changed_fraction", "transfer_auroc", "transfer_validity")
    for method in METHODS:
        texts = [f"{metrics[f'baseline_{method}_{key}']:.3f}" for key in keys]
        assert lines[method] == texts
        assert f"<th>{method}</th>" + "".join(f"<td class=number>{text}</td>" for text in texts) in page
    assert "baseline_" not in said and "baseline_" not in page
    stages = {json.loads(line)["stage"] for line in (inside / "e/history.jsonl").read_text().splitlines()}
    assert stages == {"refit 1 of the detector"}
