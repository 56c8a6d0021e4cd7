"""Saved batches: explanations can be read alone, and folders of earlier versions, with both in one file, as before."""

import pytest
import torch

from cfexplain.engine import checkpoint
from cfexplain.errors import DataError
from cfexplain.inspection.saved import SavedInspections
from tests.reporting.inspections import make_inspection

INDEX = {
    "of_test_anomalies": True, "shard": None, "class_names": ["a", "b"], "images_digest": "", "false_alarm_rate": 0.05,
    "threshold": 0.0, "num_held_out": 4, "normal_survival": None, "features": "", "second_detector": "",
}


@pytest.fixture
def saved(tmp_path) -> SavedInspections:
    saved = SavedInspections(folder=tmp_path, remedy="explain again")
    saved.begin(INDEX)
    for number, size in enumerate((3, 2)):
        saved.save(number, make_inspection(size, seed=number, prefix=f"{number}/"))
    return saved


def test_what_is_read_is_what_was_saved(saved):
    assert saved.num_images == 5 and saved.has(1) and not saved.has(2)
    for number, read in enumerate(saved):
        made = make_inspection((3, 2)[number], seed=number, prefix=f"{number}/")
        assert read.explanations.sources.ids == made.explanations.sources.ids and read.nearest_ids == made.nearest_ids
        for name in ("verdict_codes", "survives", "way_logits", "repairs", "heatmaps", "plausible"):
            assert torch.equal(getattr(read, name), getattr(made, name)), name


def test_the_explanations_need_nothing_of_what_was_measured(saved):
    whole = saved.explanations()
    for file in saved.folder.rglob("*-measured.pt"):
        file.unlink()
    assert torch.equal(saved.explanations().images, whole.images) and len(whole.sources) == 5
    assert not saved.has(0)
    with pytest.raises(DataError, match="00000-measured.pt; explain again"):
        next(iter(saved))


def test_a_folder_of_an_earlier_version_is_read(saved):
    made = list(saved)
    for file in saved.files:
        beside = file.with_stem(f"{file.stem}-measured")
        checkpoint.save(file, checkpoint.load(file, "") | {"inspection": checkpoint.load(beside, "")})
        beside.unlink()
    assert saved.has(0) and saved.num_images == 5
    for read, before in zip(saved, made, strict=True):
        assert torch.equal(read.repairs, before.repairs) and read.nearest_ids == before.nearest_ids
        assert torch.equal(read.explanations.images, before.explanations.images)


def test_in_batches_of_before_there_was_a_plausible_image_it_is_the_nearest(saved):
    file = saved.folder / "inspections" / "00000-measured.pt"
    values = checkpoint.load(file, "")
    del values["plausible"]
    checkpoint.save(file, values)
    first, second = saved
    assert not first.is_drawn and second.is_drawn


def test_a_new_index_clears_what_an_earlier_attempt_left(saved):
    saved.begin(INDEX)
    assert saved.num_images == 5
    saved.begin(INDEX | {"threshold": 1.0})
    assert list(saved) == [] and [file.name for file in (saved.folder / "inspections").iterdir()] == ["index.json"]
