"""detector=external on the command line: each kind from training to evaluation, and each mistake in one line."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import ROOT, TINY

EXTERNAL = [*(text for text in TINY if not text.startswith("detector.")), "detector=external"]
STAND_IN = ["detector.stand_in.steps=20", "detector.stand_in.batch_size=32"]
METRICS = "metric=[auroc,validity,distance,transfer,substitutability]"
PAGE = ROOT / "docs" / "external-detector.md"
OWN_CODE = """
import torch

class Redness(torch.nn.Module):
    '''Glyphs are normal where they are red: how much green and blue there is, and the map of it.'''

    def forward(self, images):
        other = images[:, 1:].sum(dim=1)
        return {"map": other, "score": (other * 3).square().mean(dim=(1, 2))}

def make():
    return Redness()

def no_gradient():
    class Cut(Redness):
        def forward(self, images):
            with torch.no_grad():
                return super().forward(images)
    return Cut()
"""


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def redness() -> nn.Module:
    namespace: dict = {}
    exec(OWN_CODE, namespace)  # noqa: S102: the text above
    return namespace["make"]().eval()


class Score(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)["score"]


def traced(path: Path, network: nn.Module | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network or Score(redness()), torch.rand(4, 3, 28, 28), check_trace=False).save(str(path))
    return path


def exported(path: Path) -> Path:
    batch = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(redness(), (torch.rand(4, 3, 28, 28),), dynamic_shapes=batch), path)
    return path


def one_line(done, code: int) -> str:
    assert done.code == code, (done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def weights_of(run: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)[name]


def check_explained(cfexplain, tmp_path, *more: str) -> None:
    """explain and evaluate of the run in `t`; its own metrics agree with those of training."""
    assert cfexplain("explain", "run=t", "run_dir=x", *more).code == 0
    done = cfexplain("evaluate", "run=x", "run_dir=e", METRICS, *more)
    assert done.code == 0, done.stderr
    metrics, trained = read(tmp_path / "e" / "metrics.json"), read(tmp_path / "t" / "metrics.json")
    assert metrics["detector_auroc"] == pytest.approx(trained["detector_auroc"], abs=1e-6)
    assert metrics["detector_auroc"] > 0.8
    assert "transfer_auroc" in metrics and not [key for key in metrics if key.startswith("substitutability")]
    notes = " ".join(read(tmp_path / "e" / "run.json")["warnings"])
    assert "detector=external cannot be trained again; a detector=bce stands in" in notes
    assert "substitutability left out" in notes


@pytest.mark.slow
def test_a_torchscript_file_from_training_to_evaluation(cfexplain, tmp_path):
    traced(tmp_path / "model.pt")
    command = ["train", *EXTERNAL, *STAND_IN, "detector.path=model.pt"]
    done = cfexplain(*command, "run_dir=t")
    assert done.code == 0, done.stderr
    assert "model.pt conforms: higher is anomalous" in done.stdout
    again = cfexplain("train", "--from", "t/config.yaml", "run_dir=t2")
    assert again.code == 0, again.stderr
    generators = [weights_of(tmp_path / run, "generator") for run in ("t", "t2")]
    for name, weights in generators[0].items():
        assert torch.equal(weights, generators[1][name]), name

    content = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").unlink()  # the run has its own copy
    check_explained(cfexplain, tmp_path)
    assert "no model at model.pt" in one_line(cfexplain("train", "--from", "t/config.yaml", "run_dir=t3"), 3)

    (tmp_path / "model.pt").write_bytes(content + b" ")
    assert "another detector.sha256" in one_line(cfexplain(*command, "run_dir=t"), 2)
    said = one_line(cfexplain("train", "--from", "t/config.yaml", "run_dir=t4"), 3)
    assert "model.pt is not the file that the config was made for" in said
    (tmp_path / "t" / "checkpoints" / "external-model.pt").write_bytes(content[:-1])
    assert "external-model.pt is not the file" in one_line(cfexplain("explain", "run=t"), 3)
    (tmp_path / "t" / "checkpoints" / "external-model.pt").unlink()
    assert "the run's own copy of model.pt" in one_line(cfexplain("explain", "run=t"), 3)


@pytest.mark.slow
def test_an_export_program_that_is_stopped_and_continued(cfexplain, tmp_path):
    exported(tmp_path / "model.pt2")
    command = ["train", *EXTERNAL, *STAND_IN, "detector.path=model.pt2", "detector.output=score"]
    whole = cfexplain(*command, "run_dir=whole")
    assert whole.code == 0, whole.stderr
    assert cfexplain(*command, "run_dir=t", "stage=detector").code == 0
    assert not (tmp_path / "t" / "checkpoints" / "generator.pt").exists()
    done = cfexplain(*command, "run_dir=t", "stage=generator")
    assert done.code == 0 and "detector taken from" in done.stdout, done.stderr
    for name in ("detector", "generator"):
        first, second = (weights_of(tmp_path / run, name) for run in ("whole", "t"))
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    check_explained(cfexplain, tmp_path)
    content = (tmp_path / "model.pt2").read_bytes()
    (tmp_path / "model.pt2").write_bytes(content.replace(b"archive/.format_version", b"archi~e/.format_version"))
    said = one_line(cfexplain(*command, "detector.sha256=null", "dry_run=true"), 3)  # though torch logs a traceback
    assert "torch cannot read model.pt2" in said


@pytest.mark.slow
def test_a_factory_from_training_to_evaluation(cfexplain, tmp_path):
    (tmp_path / "own.py").write_text(OWN_CODE)
    allowed = "allow_custom_code=true"
    command = ["train", *EXTERNAL, *STAND_IN, "detector.factory=own:make", "detector.output=score"]
    assert cfexplain(*command, "run_dir=t", allowed).code == 0
    assert "add allow_custom_code=true" in one_line(cfexplain("explain", "run=t"), 2)
    check_explained(cfexplain, tmp_path, allowed)
    (tmp_path / "own.py").write_text(OWN_CODE.replace("other * 3", "other * 5"))
    assert "scores otherwise than when" in one_line(cfexplain("explain", "run=t", allowed), 3)
    command = ["train", *EXTERNAL, "detector.factory=own:no_gradient", "detector.output=score"]
    said = one_line(cfexplain(*command, allowed), 3)
    assert "no gradient comes back through detector.factory=own:no_gradient" in said


def test_a_factory_is_not_even_imported_unless_it_is_allowed(cfexplain, tmp_path):
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n" + OWN_CODE)
    said = one_line(cfexplain("train", *EXTERNAL, "detector.factory=own:make"), 2)
    assert "detector.factory=own:make runs code from outside cfexplain" in said
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


class Hostile:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")


def test_a_pickle_named_pt_is_not_run(cfexplain, tmp_path):
    trace = tmp_path / "it-ran"
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Hostile(str(trace))))
    said = one_line(cfexplain("train", *EXTERNAL, "detector.path=model.pt"), 3)
    assert "model.pt is a Python pickle" in said
    assert not trace.exists()


@pytest.mark.slow
def test_dry_run_says_whether_it_conforms_and_makes_nothing(cfexplain, tmp_path):
    traced(tmp_path / "model.pt")
    done = cfexplain("train", *EXTERNAL, "detector.path=model.pt", "dry_run=true")
    assert done.code == 0 and "model.pt conforms: higher is anomalous" in done.stdout, done.stderr
    traced(tmp_path / "model.pt", nn.Sequential(Score(redness()), nn.Threshold(100.0, 0.0)))
    said = one_line(cfexplain("train", *EXTERNAL, "detector.path=model.pt", "dry_run=true"), 3)
    assert "model.pt gives the same score (0)" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def draw_parts(folder: Path) -> None:
    """Grey parts with a bright ring; broken ones have a black hole on it."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32] - 15.5
    for name, count in (("train/good", 60), ("test/good", 16), ("test/hole", 16)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            ring = np.exp(-((np.hypot(rows, columns) - rng.uniform(9, 11)) ** 2) / 4)
            grey = (ring * 180 + rng.uniform(0, 30, ring.shape)).astype(np.uint8)
            if name.endswith("hole"):
                top, left = (int(15 + 10 * part) for part in (np.cos(number), np.sin(number)))
                grey[top - 3 : top + 4, left - 3 : left + 4] = 0
            Image.fromarray(grey).convert("RGB").save(folder / name / f"{number:03d}.png")


@pytest.mark.slow
def test_the_page_turns_a_classifier_into_a_detector(cfexplain, tmp_path):
    """Its code is run as it stands, and its commands with little training."""
    page = PAGE.read_text(encoding="utf-8")
    draw_parts(tmp_path / "parts")
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["features.py", "make_centre.py", "make_head.py", "own_detector.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    for name in ("make_centre.py", "make_head.py"):
        done = subprocess.run([sys.executable, "-W", "ignore", name], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    commands = re.findall(r"^    (cfexplain train .*detector.height.*)$", page.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 3
    little = [text for text in EXTERNAL if not text.startswith(("dataset.", "exposure.", "detector"))]
    small = ["dataset.image_size=32", "exposure.limit=60", "encoder=conv", "generator=conv_small", *little]
    for command in commands:
        done = cfexplain(*command.split()[1:], *small, "run_dir=t")
        assert done.code == 0, (command, done.stderr)
        assert "conforms: higher is anomalous" in done.stdout, command
        assert read(tmp_path / "t" / "metrics.json")["detector_auroc"] > 0.8, command
        shutil.rmtree(tmp_path / "t")
