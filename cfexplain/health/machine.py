"""Health of the machine: packages that belong together, device, folders that can be written; and of the whole: ten
steps of detector and generator through the real command, in a folder that is removed."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import cfexplain
from cfexplain.engine.runtime import GPU_NODES
from cfexplain.errors import reason_of
from cfexplain.health.check import Check, Mark
from cfexplain.lazy import torch, torchvision
from cfexplain.version import installed

MIN_PYTHON, MIN_TORCH = (3, 11), (2, 11)
VISION_AHEAD = 15  # torch 2.n and torchvision 0.(n + 15) are built for each other
NEEDED = ("torchmetrics", "hydra-core", "omegaconf", "numpy", "pillow", "rich")
IMPORTED = {"hydra-core": "hydra", "pillow": "PIL", "torchmetrics": "torchmetrics.image.fid"}
LAUNCHERS = {"hydra-joblib-launcher": "joblib", "hydra-submitit-launcher": "cluster"}  # package -> our extra
LITTLE_DISK_GB, NO_DISK_GB = 5.0, 0.2
RUN_STEPS = 10
RUN_SECONDS = 120
TINY_RUN = [
    "dataset.train_size=240", "dataset.test_size=80", "dataset.reference_size=240", "exposure.limit=200",
    "encoder.width=4", "detector.batch_size=32", f"detector.steps={RUN_STEPS}", "generator.width=8",
    "generator.discriminator_width=8", "generator.concept_width=8", "fit.batch_size=8", f"fit.steps={RUN_STEPS}",
    f"fit.log_every_steps={RUN_STEPS}",
]
BROKEN = (ImportError, OSError, RuntimeError, AttributeError, ValueError)  # what an import of a wrong build raises


def version_checks() -> Iterator[Check]:
    yield python_check(sys.version_info[:2], platform.python_version())
    yield torch_check(installed("torch"), installed("torchvision"))
    yield import_check()
    for package in NEEDED:
        yield package_check(package)
    yield launcher_check()


def python_check(version: tuple[int, ...], text: str) -> Check:
    if version < MIN_PYTHON:
        return Check("python", Mark.problem, text, "Make the environment with Python 3.11 or newer.")
    return Check("python", Mark.ok, text)


def torch_check(torch: str | None, torchvision: str | None) -> Check:
    """Do the two versions belong together?"""
    if torch is None or torchvision is None:
        missing = "torch" if torch is None else "torchvision"
        return Check("torch, torchvision", Mark.problem, f"{missing} is missing", "pip install torch torchvision")
    found = f"{torch}, {torchvision}"
    own, other = _numbers(torch), _numbers(torchvision)
    if own < MIN_TORCH:
        return Check("torch, torchvision", Mark.problem, found, "pip install --upgrade torch torchvision")
    if own[0] == 2 and other != (0, own[1] + VISION_AHEAD):
        wanted = f"0.{own[1] + VISION_AHEAD}"
        return Check(
            "torch, torchvision", Mark.problem, f"{found}: torch {own[0]}.{own[1]} needs torchvision {wanted}",
            f'pip install "torch=={own[0]}.{own[1]}.*" "torchvision=={wanted}.*"',
        )
    return Check("torch, torchvision", Mark.ok, found)


def import_check() -> Check:
    """torchvision's compiled part only loads beside the torch it was built for: call an operation of it."""
    name = "compiled operations"
    try:
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    except BROKEN as error:
        return Check(name, Mark.problem, f"torch and torchvision do not work together ({reason_of(error)})",
                     "pip install --force-reinstall torch torchvision")
    if kept != [1, 2]:
        return Check(name, Mark.problem, f"torchvision.ops.nms gives {kept}, not [1, 2]",
                     "pip install --force-reinstall torch torchvision")
    return Check(name, Mark.ok, "torchvision.ops.nms gives what it should")


def package_check(package: str) -> Check:
    version = installed(package)
    if version is None:
        return Check(package, Mark.problem, "missing", f"pip install {package}")
    try:
        import_module(IMPORTED.get(package, package))
    except BROKEN as error:
        return Check(package, Mark.problem, f"{version} does not import ({reason_of(error)})",
                     f"pip install --force-reinstall {package}")
    return Check(package, Mark.ok, version)


def launcher_check() -> Check:
    versions = {package: installed(package) for package in LAUNCHERS}
    found = [f"{package} {version}" for package, version in versions.items() if version]
    found.append("Slurm" if shutil.which("sbatch") else "no Slurm on this machine")
    missing = [extra for package, extra in LAUNCHERS.items() if versions[package] is None]
    if not missing:
        return Check("launchers", Mark.ok, ", ".join(found))
    return Check("launchers", Mark.note, ", ".join(found),
                 f"For sweeps on many cores or a cluster: pip install 'cfexplain[{','.join(missing)}]'")


def device_checks() -> Iterator[Check]:
    """Only where torch imports."""
    if torch.cuda.is_available():
        yield _cuda_check()
    else:
        yield cpu_check(any(Path(node).exists() for node in GPU_NODES), torch.version.cuda)
    if torch.set_flush_denormal(True):
        yield Check("denormal numbers", Mark.ok, "flushed to zero")
    else:
        yield Check("denormal numbers", Mark.note, "this CPU cannot flush them",
                    "Nothing to do; long CPU runs may be several times slower")


def cpu_check(has_gpu_node: bool, cuda_version: str | None) -> Check:
    found = f"cpu, {torch.get_num_threads()} threads"
    if not has_gpu_node:
        return Check("device", Mark.ok, f"{found}; no GPU on this machine")
    build = f"is built for CUDA {cuda_version}: update the GPU's driver" if cuda_version else "is built for the CPU " \
        "alone: install torch's CUDA build"
    return Check("device", Mark.note, f"{found}; there is a GPU, and torch does not see it",
                 f"This torch {build}, or leave it: device=auto takes the CPU")


def _cuda_check() -> Check:
    name = torch.cuda.get_device_name()
    try:
        matrix = torch.arange(64.0).reshape(8, 8)
        is_right = torch.equal((matrix.cuda() @ matrix.cuda()).cpu(), matrix @ matrix)  # whole numbers: exact
        free, total = (number / 2**30 for number in torch.cuda.mem_get_info())
    except RuntimeError as error:
        return Check("device", Mark.problem, f"cuda ({name}) fails: {reason_of(error)}",
                     "Free the GPU or install the torch build for its driver; meanwhile use device=cpu")
    if not is_right:
        return Check("device", Mark.problem, f"cuda ({name}) multiplies wrongly", "Use device=cpu; check the driver")
    return Check("device", Mark.ok, f"cuda ({name}), {free:.1f} of {total:.1f} GB free")


def folder_check(key: str, folder: Path) -> Check:
    """Can something be made there, and is there room? What is tried is removed again."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".cfexplain-"):
            free = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        return Check(key, Mark.problem, f"{folder} cannot be written ({error.strerror})",
                     f"Give another folder to each command: {key}=<folder>")
    found = f"{folder} can be {'written' if there == folder.absolute() else 'made'}, {free:.1f} GB free"
    if free < LITTLE_DISK_GB:
        mark = Mark.problem if free < NO_DISK_GB else Mark.note
        return Check(key, mark, found, f"Make room, or give another folder: {key}=<folder>")
    return Check(key, Mark.ok, found)


def run_check(folder: Path) -> Check:
    """folder: a scratch one, which the run fills."""
    package = str(Path(cfexplain.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CFEXPLAIN_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "cfexplain", "train", *TINY_RUN, "run_dir=run", "output_root=outputs", "--json"]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Check("ten-step run", Mark.problem, f"not done after {RUN_SECONDS} s",
                     "Look for other programs that use the machine; set runtime.num_threads")
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("cfexplain: ")]
        words = (complaints or done.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("cfexplain: ")
        return Check("ten-step run", Mark.problem, f"exit code {done.returncode}: {words[:300]}",
                     "Mend the problems above first; then look at cfexplain train dry_run=true")
    device = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["device"]
    speeds = dict(re.findall(r"^\[(\w+)\] .* (\d+) images/s", done.stderr, re.MULTILINE))  # history.jsonl has no times
    words = ", ".join(f"{stage} {speed} images/s" for stage, speed in speeds.items())
    return Check("ten-step run", Mark.ok, f"done on {device}: {words} (tiny networks, warm-up included)")


def _numbers(version: str) -> tuple[int, ...]:
    """'2.14.1+cpu' -> (2, 14)."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
