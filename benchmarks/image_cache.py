"""A large folder of images through the memory-mapped cache: time an image, reopening, memory, a file cut short.

    python benchmarks/image_cache.py [--images 50000] [--side 64]

The baseline, in the same run: the same images decoded one after the other into an array in memory.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE_SIDE = 96  # the files are larger than what is learned from


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--side", type=int, default=64)
    arguments.add_argument("--phase", choices=["build", "reopen", "cut", "baseline"], help="for inner use")
    arguments.add_argument("--folder", type=Path)
    options = arguments.parse_args()
    if options.phase:
        print(measured(options.phase, options.folder, options.side))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images", options.images)
        print(f"{options.images} JPEGs of {SOURCE_SIDE}x{SOURCE_SIDE} to 3x{options.side}x{options.side}, "
              f"{options.images * 3 * options.side**2 / 2**20:.0f} MiB decoded")
        for phase in ("baseline", "build", "reopen", "cut"):
            words = ["--phase", phase, "--folder", name, "--side", str(options.side)]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
            print(f"{phase:9} {done.stdout.strip()}", flush=True)


def measured(phase: str, folder: Path, side: int) -> str:
    """One phase in a process of its own, so that its memory is its own."""
    from cfexplain.data.reading.image_cache import mapped_images
    from cfexplain.data.reading.image_files import find_image_files, read_image

    logging.disable(logging.WARNING)
    files, shape = find_image_files(folder / "images"), (3, side, side)
    before, started = memory_mb(), time.perf_counter()
    if phase == "baseline":
        images = np.stack([read_image(file, shape) for file in files])
    else:
        if phase == "cut":
            (whole,) = (folder / "cache/images").glob("*.u8")
            whole.write_bytes(whole.read_bytes()[:-1000])
        cached = mapped_images(files, shape, str(folder / "cache"), memory_limit_mb=16, max_unreadable_fraction=0.0)
        images = cached.images
    seconds = time.perf_counter() - started
    opened = memory_mb()
    rng, drawn = np.random.default_rng(0), time.perf_counter()
    for _ in range(200):  # as training draws its batches
        total = int(images[rng.integers(len(images), size=128)].sum())
    assert total > 0
    drawn = time.perf_counter() - drawn
    after = memory_mb()
    growth = {name: after[name] - before[name] for name in after}
    return (
        f"{seconds:7.1f} s, {1e3 * seconds / len(files):6.3f} ms an image; 200 batches of 128: {drawn:5.2f} s; "
        f"memory grown by {growth['RssAnon']:6.0f} MiB of its own (at opening "
        f"{opened['RssAnon'] - before['RssAnon']:.0f}), {growth['RssFile']:5.0f} MiB mapped"
    )


def memory_mb() -> dict[str, float]:
    """Resident memory of this process in MiB: its own, and pages of files, which the kernel takes back when it must."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def make_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        small = rng.integers(256, size=(6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((SOURCE_SIDE, SOURCE_SIDE), Image.Resampling.BILINEAR)
        picture.save(folder / f"{index:06d}.jpg", quality=85)


if __name__ == "__main__":
    main()
