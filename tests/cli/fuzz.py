"""Random bad input for every command: `python -m tests.cli.fuzz <seed> [<seconds> | case=<number>]`.

Each case follows from (seed, number) alone and runs in a forked child of one process that has torch loaded. A case
fails on a traceback, on a hang, on more than one line of complaint, on memory that runs away, and on an exit code
outside the contract.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from cfexplain import compose
from cfexplain.cli import main
from cfexplain.command_line import all_groups, parse
from cfexplain.config import known_keys
from cfexplain.engine import checkpoint

SECONDS_OF_A_CASE = 30
MAX_MEMORY_MB = 2500
MAX_ADDRESSES = 12 * 2**30
FOLDER = ["dataset=folder", "dataset.image_size=16", "exposure=confetti", "encoder=conv", "runtime=cpu"]
SMALL = ["encoder.width=4", "generator=conv_plain", "detector=dsvdd", "detector.steps=2", "detector.batch_size=4",
         "fit.steps=1", "fit.batch_size=4"]
QUICK = ["batch_size=2", "second_detector=none", "num_film_strips=0", "features.num_steps=1", "num_grid_images=1"]
DRY = "dry_run=true"
CIFAR = ["train", "dataset=cifar10", "dataset.root=cifar.npz", "exposure=confetti", "runtime=cpu", DRY]
MNIST = ["train", "dataset=mnist", "dataset.root=.", "exposure=letters", "runtime=cpu", DRY]
PARTS = ["train", *FOLDER, "dataset.root=parts", DRY]
MODEL = [*PARTS, "detector=external", "detector.sha256=null"]
EXPLAIN, EVALUATE, MERGE = ["explain", "run=t", *QUICK], ["evaluate", "run=e", "metric=[validity]"], "merge=[s1,s2]"
FILES = {  # what is damaged -> commands that read it
    "parts/train/good/00.png": [PARTS], "parts/train/good/01.jpg": [PARTS], "parts/train/good/02.tif": [PARTS],
    "parts/test/dent/00.png": [PARTS], "parts/groups.csv": [[*PARTS, "dataset.groups=groups.csv"]],
    "parts.zip": [["train", *FOLDER, "dataset.root=parts.zip", DRY]], "cifar.npz": [CIFAR],
    "MNIST/raw/train-images-idx3-ubyte.gz": [MNIST], "MNIST/raw/train-labels-idx1-ubyte": [MNIST],
    "script.pt": [[*MODEL, "detector.path=script.pt"]], "program.pt2": [[*MODEL, "detector.path=program.pt2"]],
    "images.txt": [[*EXPLAIN, "images=images.txt", DRY]], "parts/test/good/00.png": [[*EXPLAIN, "images=parts/test"]],
    "config.yaml": [["train", "--from", "config.yaml", DRY], ["train", "--from", "config.yaml", "--cfg", "job"]],
    "conf/dataset/mine.yaml": [["train", "--config-dir", "conf", "dataset=mine", DRY]],
    "t/config.yaml": [[*EXPLAIN, DRY], ["train", *FOLDER, *SMALL, "dataset.root=parts", "run_dir=t"]],
    "t/run.json": [[*EXPLAIN, DRY], ["evaluate", "runs=[t,e]"], ["train", "--from", "t/config.yaml", "run_dir=t"]],
    "t/split.csv": [[*EXPLAIN, DRY]], "t/metrics.json": [["evaluate", "runs=[t,e]"]],
    "t/history.jsonl": [["train", "--from", "t/config.yaml", "run_dir=t"]],
    **{f"t/checkpoints/{name}.pt": [[*EXPLAIN, DRY]] for name in ("detector", "generator")},
    "t/checkpoints/last.pt": [["train", "--from", "t/config.yaml", "run_dir=t"]],
    "e/run.json": [EVALUATE, ["explain", "run=e", *QUICK, DRY]], "e/inspections/index.json": [EVALUATE],
    "e/inspections/00000.pt": [EVALUATE], "e/inspections/00001-measured.pt": [[*EXPLAIN, "run_dir=e"]],
    "s1/run.json": [[*EXPLAIN, MERGE]], "s2/config.yaml": [[*EXPLAIN, MERGE]],
    "s1/inspections/index.json": [[*EXPLAIN, MERGE]], "s2/inspections/00001.pt": [[*EXPLAIN, MERGE]],
    "outputs/latest.txt": [["explain", "run=latest", *QUICK, DRY]],
    "sweep/sweep.json": [["train", "-m", *FOLDER, "dataset.root=nowhere", "run_dir=sweep"], ["evaluate", "runs=sweep"]],
}  # fmt: skip
VALUES = [None, True, 0, -1, 1e308, 10**12, "", "x", "../..", "x" * 5000, [], [1], [[]], {}, {"a": 1}, "\0", "ü\ud800"]
WORDS = ["", "null", "true", "0", "-1", "1e400", "nan", "1000000000", "x", "[", "[]", "[a,b]", "{}", "{a:1}", "''",
         "${x}", "${seed}", "a,b", "range(0,3)", "interval(0,1)", "x" * 300, "../x", "/dev/zero", "~", "é", "'", "=",
         "1,x", "choice(1,2)", "glob(*)", "???", "0.5", "[0,1]", "[[1]]", "parts"]


def made(folder: Path) -> None:
    """Sound files of every format that is read, and runs of every command."""
    os.chdir(folder)
    rng = np.random.default_rng(0)
    for name, count in (("train/good", 12), ("test/good", 2), ("test/dent", 4)):
        Path("parts", name).mkdir(parents=True)
        for index in range(count):
            picture = Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8))
            ending = {1: "jpg", 2: "tif"}.get(index, "png")
            picture.save(f"parts/{name}/{index:02d}.{ending}")
    names = sorted(str(path.relative_to("parts")) for path in Path("parts").rglob("*.*"))
    Path("parts/groups.csv").write_text("file,group\n" + "".join(f"{name},{name[-6]}\n" for name in names))
    Path("images.txt").write_text("".join(f"parts/{name}\n" for name in names if "dent" in name))
    with zipfile.ZipFile("parts.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(f"parts/{name}", name)
    labels = (np.arange(40) % 10).astype(np.uint8)
    np.savez_compressed("cifar.npz", **{f"{kind}_{part}": values for part in ("train", "test") for kind, values in (
        ("x", rng.integers(256, size=(40, 32, 32, 3), dtype=np.uint8)), ("y", labels))})
    Path("MNIST/raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = rng.integers(256, size=40 * 784, dtype=np.uint8).tobytes()
        header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (40, 28, 28))
        Path(f"MNIST/raw/{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels))
        header = b"\0\0\x08\x01" + (40).to_bytes(4, "big")
        Path(f"MNIST/raw/{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1)).eval()
    torch.jit.trace(network, torch.zeros(4, 3, 16, 16)).save("script.pt")
    torch.export.save(torch.export.export(network, (torch.zeros(4, 3, 16, 16),)), "program.pt2")
    for words in (["train", *FOLDER, *SMALL, "dataset.root=parts", "run_dir=t"], [*EXPLAIN, "run_dir=e"],
                  [*EXPLAIN, "run_dir=s1", "shard=1/2"], [*EXPLAIN, "run_dir=s2", "shard=2/2"],
                  ["train", "-m", *FOLDER, "dataset.root=nowhere", "run_dir=sweep"]):
        code, said, _ = ran(words)
        assert code == (3 if "-m" in words else 0), said
    shutil.copy("t/config.yaml", "config.yaml")
    Path("conf/dataset").mkdir(parents=True)
    Path("conf/dataset/mine.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path("config.yaml").read_text())["dataset"]))
    Path("outputs").mkdir(exist_ok=True)
    Path("outputs/latest.txt").write_text("explain e\ntrain t\n")


def ran(words: list[str]) -> tuple[int, str, int]:
    """Exit code, what stderr got, and MB at most, of a command in a child of this process; code 124: it hung."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESSES, MAX_ADDRESSES))
            signal.alarm(SECONDS_OF_A_CASE)  # ends the process: nobody here handles it
            code = 99  # an exception came through
            try:
                code = main(words)
            except BaseException:  # noqa: BLE001: what Python would print
                sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(code)
        _, status, used = os.wait4(child, 0)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it started
        said.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return 124 if code == -signal.SIGALRM else code, said.read().decode("utf-8", "replace"), used.ru_maxrss >> 10


def fault(code: int, said: str, memory_mb: int) -> str | None:
    """What is wrong with how a case ended."""
    if code not in (0, 1, 2, 3):
        return f"exit code {code}"
    if "raceback" in said or "unforeseen" in said:
        return "a traceback, or a failure that nobody foresaw"
    others = ("cfexplain: note:", "Launching ", "\t#")  # the last two are what a sweep of Hydra says
    if code and sum(not line.startswith(others) for line in said.splitlines()) != 1:
        return "not one line"
    return f"{memory_mb} MB" if memory_mb > MAX_MEMORY_MB else None


def other_bytes(rng: random.Random, content: bytes) -> bytes:
    changed, size = bytearray(content), len(content)
    kind = rng.choice(["cut", "flip", "flip", "flips", "zeros", "random", "twice", "start", "empty", "grow"])
    if kind == "cut":
        return content[: rng.randrange(size)]
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else rng.randrange(1, 50)):
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        start = rng.randrange(size)
        changed[start : start + rng.randrange(1, 64)] = bytes(rng.randrange(1, 64))
    elif kind == "start":
        changed[: rng.randrange(1, 16)] = rng.randbytes(8)
    elif kind == "grow":
        changed += rng.randbytes(rng.randrange(1, 3000))
    return {"random": rng.randbytes(500), "twice": content * 2, "empty": b""}.get(kind, bytes(changed))


def other_values(rng: random.Random, values: Any) -> Any:
    """The same with one value somewhere in it of another kind, or gone."""
    if not isinstance(values, dict | list) or not values or rng.random() < 0.15:
        return rng.choice(VALUES)
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    key, changed = rng.choice(keys), values.copy()
    if rng.random() < 0.2:
        del changed[key]
    elif rng.random() < 0.05:
        changed[key] = json.loads(400 * "[" + 400 * "]")
    else:
        changed[key] = other_values(rng, changed[key])
    return changed


def damage(rng: random.Random, file: Path) -> None:
    """Bytes of any file, or values of one that holds such."""
    if file.suffix in (".json", ".yaml") and rng.random() < 0.7:
        values = other_values(rng, yaml.safe_load(file.read_text()))
        file.write_text(json.dumps(values))  # which is YAML too
    elif file.suffix == ".pt" and file.parent.name in ("checkpoints", "inspections") and rng.random() < 0.7:
        values = other_values(rng, checkpoint.load(file, ""))
        checkpoint.save(file, values if isinstance(values, dict) else {"x": values})
        if file.parent.name == "checkpoints":  # as of a run that has no digests
            record = json.loads(Path("t/run.json").read_text())
            Path("t/run.json").write_text(json.dumps({**record, "weights": {}}))
    else:
        file.write_bytes(other_bytes(rng, file.read_bytes()))


def random_words(rng: random.Random) -> list[str]:
    """Overrides of some command, most of them with a value that cannot be meant."""
    command = rng.choice(["train", "train", "explain", "evaluate"])
    flags = rng.choices([[DRY], ["--cfg", "job", "--resolve"], ["--info", "defaults"], [DRY, "-m"]], [12, 1, 1, 2])[0]
    run = [] if command == "train" else ["run=t"]
    groups = [f"{group}={rng.choice(options)}" for group, options in all_groups().items()
              if rng.random() < 0.15 and command == "train"]
    try:
        (cfg,) = compose.compositions(parse(command, [*run, *groups]))
        keys = known_keys(OmegaConf.to_container(cfg, resolve=False))
    except Exception:  # noqa: BLE001: as the groups do not fit together
        keys = ["seed"]
    chosen = rng.sample(keys, min(len(keys), rng.choice([1, 1, 2, 3])))
    start = rng.choices(["", "+", "++", "~"], [20, 1, 1, 1])[0]
    words = [f"{start}{key}={rng.choice(WORDS)}" for key in chosen if key != "dry_run"]
    odd = ["hydra=1", "--config-name=x", "hydra.run.dir=x", "@", "--json", "a.b.c=1"]
    words += rng.sample(odd, 1 if rng.random() < 0.1 else 0)
    return [command, *run, *groups, *words, *flags]


def run_case(sound: Path, seed: int, number: int) -> str | None:
    """What went wrong, in a few lines that tell how to see it again."""
    rng = random.Random(f"{seed}/{number}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        os.chdir(folder)
        name = ""
        if rng.random() < 0.3:
            words = random_words(rng)
        else:
            name = rng.choice(list(FILES))
            damage(rng, Path(name))
            words = rng.choice(FILES[name])
        result = ran([*words, "cache_dir=cache"] if name else words)
        os.chdir(sound)
    found = fault(*result)
    return found and f"{found}: case={number} of seed {seed}, {name} {words}\n{result[1][-1500:]}"


def fuzz(seed: int, seconds: float, only: int | None) -> int:
    torch.set_num_threads(1)
    started, failed, number = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as sound:
        os.environ["CFEXPLAIN_CACHE"] = f"{sound}/cache"
        made(Path(sound))
        run: Callable[[int], str | None] = lambda number: run_case(Path(sound), seed, number)
        while only is None and time.monotonic() < started + seconds or only is not None and not number:
            if (found := run(number if only is None else only)) is not None:
                failed += 1
                print(found, flush=True)
            number += 1
        os.chdir("/")
    print(f"seed {seed}: {number} cases, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    given = dict(word.split("=") for word in sys.argv[2:] if "=" in word)
    limit = float(next((word for word in sys.argv[2:] if "=" not in word), 60))
    sys.exit(fuzz(int(sys.argv[1]), limit, int(given["case"]) if given else None))
