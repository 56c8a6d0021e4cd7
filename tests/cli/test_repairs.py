"""A folder of parts with marked defects: evaluate says whether they are repaired, and what else is changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY
from tests.metrics.parts import NUM_DEFECTIVE, SIDE, stripes

TINY_PARTS = [
    "dataset=folder", "dataset.root=parts", f"dataset.image_size={SIDE}", "encoder=conv", "generator=conv_small",
    *(word for word in TINY if not word.startswith("dataset.") and "encoder" not in word),
]
ALL = ("outside_change", "outside_kept", "normals_left_alone", "correction", "restoration_psnr_gain",
       "restoration_psnr_outside", "restoration_ssim_gain", "restoration_images")


def draw_parts(root: Path) -> None:
    """MVTec's layout, stripes with a black square as their defect."""
    for seed, (name, count) in enumerate({"train/good": 40, "test/good": 6, "test/hole": NUM_DEFECTIVE}.items()):
        (root / name).mkdir(parents=True)
        images = stripes(count, seed)
        if name == "test/hole":
            (root / "ground_truth/hole").mkdir(parents=True)
            images[:, :, 8:16, 12:20] = 0
        for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(root / name / f"{index:03d}.png")
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[8:16, 12:20] = 255
    for index in range(NUM_DEFECTIVE):
        Image.fromarray(mask).save(root / f"ground_truth/hole/{index:03d}_mask.png")


@pytest.mark.slow
def test_evaluate_measures_repairs_of_a_saved_run(cfexplain, tmp_path):
    draw_parts(tmp_path / "parts")
    for words in (["train", *TINY_PARTS, "exposure=mixed", "run_dir=t"], ["explain", "run=t", "run_dir=x"]):
        done = cfexplain(*words)
        assert done.code == 0, done.stderr
    done = cfexplain("evaluate", "run=x", "run_dir=e", "metric=[restoration,conservation,correction,distance]")
    assert done.code == 0, done.stderr
    metrics = json.loads((tmp_path / "e/metrics.json").read_text())
    assert set(ALL) < set(metrics) and all(key in done.stdout for key in ALL)
    assert metrics["restoration_images"] == 12  # a tenth of 40 is held out; of the kinds, three are new to this run
    assert "restoration_psnr_gain_confetti" in metrics and "restoration_psnr_gain_blobs" not in metrics
    assert metrics["correction_before"] > 2 > metrics["correction_normal"]  # a black square is far from stripes
    assert (metrics["outside_kept"] == 1.0) <= (metrics["outside_change"] <= 0.01)
