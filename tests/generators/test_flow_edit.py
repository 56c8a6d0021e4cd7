"""generator=flow_edit: the flow's arithmetic by hand, the mask, what stays, and a run of it that is killed."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cfexplain.data.batches import to_uint8
from cfexplain.errors import ConfigError
from cfexplain.explanation.flow import edited_exposure, FlowLearner, play_after
from cfexplain.generators.conv import Conv
from cfexplain.generators.flow_edit import (
    EXPOSURE, FlowEdit, FlowEdited, FlowEditor, mix, moved, NO_LABEL, NORMAL, NUM_TIMES,
)
from cfexplain.types import ImageSet, Splits
from tests.conftest import ROOT, TINY

SHAPE = (1, 8, 8)
EDITOR = Conv(
    width=4, num_downsamplings=1, num_middle_blocks=0, patch=1, source_skip=2.0, exact_skip=True, condition_spread=0.0,
    head_width=0, joins_stem=False, discriminator_width=4, discriminator_blocks=1, concept_width=4, concept_blocks=1,
)
SPEC = FlowEdit(
    editor=EDITOR, steps=4, batch_size=4, learning_rate=0.01, label_dropout=0.5, patch=1, width=4, num_downsamplings=1,
    head_width=4, num_edited=4, strength=0.8, guidance=1.0, num_maps=2, mask_level=1.5,
)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Knows(nn.Module):
    """A flow to which every normal image is white in its upper left quarter; of others it knows what they are."""

    def __init__(self, sources: torch.Tensor) -> None:
        super().__init__()
        self.sources, self.asked = sources, []

    def forward(self, mixed, times, labels):
        self.asked.append((int(times[0]), int(labels[0])))
        clean = self.sources.clone()
        if labels[0] == NORMAL:
            clean[:, :, :4, :4] = 1
        return clean


def test_a_step_along_the_flow_goes_from_one_mixture_to_the_next():
    clean, noise = images(2), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    assert mix(torch.tensor([[[[1.0]]]]), torch.tensor([[[[-1.0]]]]), 2).item() == pytest.approx(0.6)  # 0.8 - 0.2
    for time, to in ((9, 8), (5, 6), (4, 0)):
        torch.testing.assert_close(moved(mix(clean, noise, time), clean, time, to), mix(clean, noise, to))


def test_psi_draws_a_normal_image_where_the_labels_disagree_and_leaves_the_rest_bit_for_bit():
    sources = images(3).clamp(-1, 0.5)
    flow = Knows(sources)
    editor = FlowEditor(flow, SPEC, SHAPE)
    mask = editor.mask(sources)
    assert mask[:, 0, :3, :3].all() and not mask[:, :, 6:].any() and not mask[:, :, :, 6:].any()
    assert set(flow.asked) == {(8, NORMAL), (8, EXPOSURE)} and len(flow.asked) == 2 * SPEC.num_maps
    found = editor(sources)
    assert torch.equal(found.where(~mask, 0), sources.where(~mask, 0))
    white = torch.ones_like(found[:, :, :3, :3])
    torch.testing.assert_close(found[:, :, :3, :3], white)
    assert {label for time, label in flow.asked if time < 8} == {NORMAL, NO_LABEL}


def test_guidance_goes_beyond_the_normal_label():
    sources = torch.zeros(1, *SHAPE)
    strong = FlowEditor(Knows(sources), dataclasses.replace(SPEC, guidance=0.5), SHAPE)(sources)
    torch.testing.assert_close(strong[:, :, :3, :3], torch.full((1, 1, 3, 3), 0.5))  # half of the way from 0 to 1


def test_an_image_is_edited_alike_in_any_company():
    torch.manual_seed(0)
    psi = SPEC.build_generator(SHAPE, 2, 1).eval().psi
    sources = images(5)
    torch.testing.assert_close(psi(sources)[3:4], psi(sources[3:4]))


def test_all_bins_and_concepts_are_asked_of_one_edit():
    flow, sources = Knows(images(2)), images(2)
    network = FlowEdited(FlowEditor(flow, SPEC, SHAPE), EDITOR.build_generator(SHAPE, 2, 2)).eval()
    zeros = torch.zeros(2, dtype=torch.long)
    first = network(sources, zeros, zeros)
    asked = len(flow.asked)
    torch.testing.assert_close(first, network.editor(network.psi(sources), zeros, zeros))
    flow.asked.clear()
    network(sources.clone(), zeros + 1, zeros)
    assert asked > 0 and not flow.asked
    network(sources.flip(0), zeros, zeros)
    assert flow.asked


def splits(**changes) -> Splits:
    def part(count: int, label: int) -> ImageSet:
        pixels = torch.full((count, *SHAPE), 255 * label, dtype=torch.uint8)
        numbers = torch.full((count,), label)
        return ImageSet(images=pixels, labels=numbers, classes=numbers, ids=tuple(f"{label}-{i}" for i in range(count)))

    values = {"train": part(6, 0), "held_out": part(2, 0), "exposure": part(6, 1), "test": part(2, 0)}
    return Splits(**{**values, "reference": values["train"], "class_names": ("black", "white"), "factors": None,
                     "augmentation": None, "fresh": None, **changes})


def test_the_loss_is_the_error_of_the_clean_image_weighted_as_a_velocity(monkeypatch):
    """A flow that says 0 of images of -1 and 1 has an error of 1 everywhere, times NUM_TIMES / time, at most 10."""
    learner = FlowLearner(SPEC, splits(), 0, torch.device("cpu"))
    seen = {}

    def nothing(mixed, times, labels):
        seen.update(times=times, labels=labels, mixed=mixed)
        return 0 * learner.flow.head.bias.sum() + torch.zeros_like(mixed)

    monkeypatch.setattr(learner.flow, "forward", nothing)
    losses = learner.step()
    assert losses["error"] == 1
    expected = sum(min(NUM_TIMES / time, 10) for time in seen["times"].tolist()) / 4
    assert losses["loss"].item() == pytest.approx(expected)
    assert ((seen["labels"] == NO_LABEL) | (seen["labels"] == torch.tensor([NORMAL, NORMAL, EXPOSURE, EXPOSURE]))).all()


def test_a_trained_flow_tells_the_labels_apart():
    spec = dataclasses.replace(SPEC, steps=80, batch_size=8, width=8, learning_rate=0.02)
    learner = FlowLearner(spec, splits(), 0, torch.device("cpu"))
    for _ in range(spec.steps):
        learner.step()
    editor, grey = learner.fitted(), torch.zeros(1, *SHAPE)
    with torch.no_grad():
        assert editor.predicted(grey, 9, NORMAL).mean() < -0.7 and editor.predicted(grey, 9, EXPOSURE).mean() > 0.7
    edited = edited_exposure(editor, splits(), 0, torch.device("cpu"))
    whites = torch.ones(4, *SHAPE)
    assert len(edited["rows"]) == 4 and torch.equal(edited["edited"], to_uint8(editor(whites)))
    played = play_after(splits(), **edited)
    assert torch.equal(played.exposure.images, edited["edited"])
    assert played.exposure.ids == tuple(f"1-{row}" for row in edited["rows"].tolist())
    assert torch.equal(played.train.images, splits().train.images)


def test_exposure_that_is_made_anew_for_every_batch_is_refused():
    for changes in ({"fresh": lambda images, generator: (images, images[:, 0] > 0)}, {"exposure": None}):
        with pytest.raises(ConfigError, match="take an exposure of other images"):
            FlowLearner(SPEC, splits(**changes), 0, torch.device("cpu"))


@pytest.mark.slow
def test_killed_in_the_flow_and_while_it_edits_a_run_ends_with_the_same_bits(tmp_path, session_cache):
    """A run dies at once where a checkpoint is written for the third time, and where flow.pt is about to be."""
    program = """
import os, sys
from cfexplain.cli import main
from cfexplain.commands import stages
from cfexplain.engine import checkpoint
at, count, save = sys.argv[1], [0], checkpoint.save_learner
def dies(learner, folder):
    count[0] += learner.stage == "flow"
    if at == "flow" and count[0] == 3:
        os._exit(9)
    save(learner, folder)
checkpoint.save_learner = dies
if at == "edit":
    stages.edited_exposure = lambda *_: os._exit(9)
sys.exit(main(sys.argv[2:]))
"""
    words = ["train", *[word for word in TINY if not word.startswith("generator.")], "generator=flow_edit",
             "generator.steps=8", "generator.batch_size=8", "generator.width=8", "generator.num_maps=2",
             *[f"generator.editor.{word.split('.', 1)[1]}" for word in TINY if word.startswith("generator.")]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CFEXPLAIN_CACHE": str(session_cache)}

    def run(dies_at: str, folder: str) -> int:
        command = [sys.executable, "-c", program, dies_at, *words, f"run_dir={folder}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode

    assert run("never", "whole") == 0
    assert [run(at, "killed") for at in ("flow", "edit", "never")] == [9, 9, 0]
    for name in ("history.jsonl", "images/counterfactuals.png", "images/counterfactuals-000004.png"):
        assert Path(tmp_path, "whole", name).read_bytes() == Path(tmp_path, "killed", name).read_bytes(), name
    one, two = (
        torch.load(tmp_path / run / "checkpoints" / "generator.pt", weights_only=True)["generator"]
        for run in ("whole", "killed")
    )
    assert one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())
