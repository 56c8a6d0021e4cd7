"""All that is looked at, one after another, in a scratch folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfexplain.health.check import Check, Mark
from cfexplain.health.data import data_checks, weight_checks
from cfexplain.health.machine import device_checks, folder_check, run_check, version_checks
from cfexplain.lazy import torch


def all_checks(root: Path, output_root: Path, cache_dir: Path) -> Iterator[Check]:
    """Each as soon as it is known. What needs torch is left out where torch is broken."""
    with _scratch_folder() as folder:
        is_broken = False
        for check in version_checks():
            is_broken = is_broken or check.mark is Mark.problem
            yield check
        yield folder_check("output_root", output_root)
        yield folder_check("cache_dir", cache_dir)
        if is_broken:
            yield Check("the rest", Mark.problem, "device, data, weights and a run were not checked",
                        "Mend the packages above first")
            return
        yield from device_checks()
        yield from data_checks(root, folder / "cache")
        yield from weight_checks(Path(torch.hub.get_dir(), "checkpoints"))
        yield run_check(folder)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Gone at the end, with the folder that torch's compiler makes as soon as torchvision is imported."""
    key = "TORCHINDUCTOR_CACHE_DIR"
    is_ours = key not in os.environ
    with tempfile.TemporaryDirectory(prefix="cfexplain-doctor-") as folder:
        if is_ours:
            os.environ[key] = str(Path(folder, "inductor"))
        try:
            yield Path(folder)
        finally:
            if is_ours:
                del os.environ[key]
