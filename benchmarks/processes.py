"""Two processes against one at the same global batch: the losses of each of 20 steps, and the speed.

    python benchmarks/processes.py                  glyphs, default sizes, one thread a process
    python benchmarks/processes.py fit=paper        with any values of cfexplain train

The detector is trained, then the generator against one and the same detector. Each loss is compared three times:

- 2 processes: both runs go their own way from the same initial weights.
- same state: the two processes start each step from where the one process stood.
- 2 threads: one process against itself at two threads, which changes nothing but the order of sums. The game amplifies
  rounding (Adam with beta_1 = 0 first steps by the learning rate along a gradient, however small it is), so this is how
  near to each other two runs in float32 can stay.

In float64 the rounding is far below what is compared, so that an error in the mathematics would be all that is left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cfexplain import compose, config
from cfexplain.command_line import parse
from cfexplain.commands.train_config import TrainConfig

WANTED = 1e-4
OVERRIDES = ["dataset=glyphs", "runtime=cpu"]
STAGES = ("detector", "generator")


def train_config(overrides: list[str]) -> TrainConfig:
    (composed,) = compose.compositions(parse("train", overrides))
    return config.build_root(composed, TrainConfig)


def work(task: dict[str, Any]) -> None:
    """One rank: the losses of each step of both stages, and the fastest step; rank 0 writes them."""
    import torch

    from cfexplain.engine.distributed import ALONE, joined

    torch.set_num_threads(task["num_threads"])
    torch.set_flush_denormal(True)
    if task["dtype"] == "float64":
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double  # where the code asks for float32, too
    if task["size"] == 1:
        result = both_stages(task, ALONE)
    else:
        with joined(task["rank"], task["size"], task["meeting"], torch.device("cpu")) as ranks:
            result = both_stages(task, ranks)
    if task["rank"] == 0:
        Path(task["result"]).write_text(json.dumps(result))


def both_stages(task: dict[str, Any], ranks: Any) -> dict[str, Any]:
    import torch

    from cfexplain.detectors.fitting import DetectorLearner
    from cfexplain.detectors.base import build_detector
    from cfexplain.explanation.game import CounterfactualLearner

    settings, device, states = train_config(task["overrides"]), torch.device("cpu"), Path(task["states"])
    splits, seed = settings.load_splits(), settings.seed
    learner = DetectorLearner(settings.detector, settings.encoder, splits, seed, device, ranks)
    result = {"detector": curve(learner, ranks, task)}
    if task["notes_states"]:
        torch.save(learner.fitted().state_dict(), states / "detector.pt")
    common = build_detector(settings.detector, settings.encoder, splits.image_shape, seed)
    common.load_state_dict(torch.load(states / "detector.pt", weights_only=True))
    game = CounterfactualLearner(settings.generator, settings.fit, common, splits, seed, device, ranks)
    return result | {"generator": curve(game, ranks, task)}


def curve(learner: Any, ranks: Any, task: dict[str, Any]) -> dict[str, Any]:
    import torch

    losses, seconds = [], []
    for step in range(task["num_steps"]):
        file = Path(task["states"]) / f"{learner.stage}-{step}.pt"
        if task["notes_states"]:
            torch.save(learner.state_dict(), file)
        if task["from_states"]:
            learner.load_state_dict(torch.load(file, weights_only=True))
        started = time.perf_counter()
        values = learner.step()
        seconds.append(time.perf_counter() - started)
        losses.append(dict(zip(values, ranks.mean(torch.stack(list(values.values()))).tolist(), strict=True)))
    return {"losses": losses, "seconds": min(seconds)}  # the fastest: the machine may be shared


def trained(place: Path, size: int, num_threads: int = 1, from_states: bool = False, **task: Any) -> dict[str, Any]:
    """The result of `size` processes; that of one, at one thread, notes its states."""
    name = f"{task['dtype']}-{size}-{num_threads}-{from_states}"
    states, result = place / task["dtype"], place / f"{name}.json"
    states.mkdir(exist_ok=True)
    task |= {"size": size, "num_threads": num_threads, "from_states": from_states, "result": str(result),
             "states": str(states), "notes_states": size == num_threads == 1, "meeting": f"file://{place}/{name}.ranks"}
    quiet = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_WAIT_POLICY": "passive"}
    processes = [
        subprocess.Popen([sys.executable, __file__, json.dumps(task | {"rank": rank})], env=quiet | os.environ)
        for rank in range(size)
    ]
    if any([process.wait() for process in processes]):
        sys.exit(f"{name} failed")
    return json.loads(result.read_text())


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """Of each loss: the largest difference over the steps, and the first step (from 1) beyond WANTED, or 0."""
    found = {}
    for stage in STAGES:
        pairs = list(zip(one[stage]["losses"], other[stage]["losses"], strict=True))
        for name in pairs[0][0]:
            gaps = [abs(a[name] - b[name]) for a, b in pairs]
            beyond = [step for step, gap in enumerate(gaps, start=1) if gap > WANTED]
            found[f"{stage}.{name}"] = (max(gaps), beyond[0] if beyond else 0)
    return found


def compared(place: Path, dtype: str, num_steps: int, overrides: list[str]) -> bool:
    """Print the table of one precision. True where all is equal that rounding does not decide."""
    task = {"dtype": dtype, "num_steps": num_steps, "overrides": overrides}
    one = trained(place, 1, **task)
    others = {"2 processes": trained(place, 2, **task), "same state": trained(place, 2, from_states=True, **task),
              "2 threads": trained(place, 1, num_threads=2, **task)}
    gaps = {name: differences(one, other) for name, other in others.items()}
    print(f"\n{dtype}: largest difference over {num_steps} steps (first step beyond {WANTED:g})")
    print(f"{'':34}" + "".join(f"{name:>20}" for name in others))
    for loss in gaps["same state"]:
        cells = (gaps[name][loss] for name in others)
        print(f"{loss:34}" + "".join(f"{gap:14.1e} ({step or '-':>3})" for gap, step in cells), flush=True)
    for stage in STAGES:
        seconds = one[stage]["seconds"]
        ratios = {name: seconds / others[name][stage]["seconds"] for name in ("2 processes", "2 threads")}
        said = ", ".join(f"{name} {ratio:.2f} times as fast" for name, ratio in ratios.items())
        print(f"{stage}: fastest step of one process {1000 * seconds:.0f} ms, {said}", flush=True)
    judged = ["same state"] if dtype == "float32" else ["same state", "2 processes"]
    return all(step == 0 for name in judged for _, step in gaps[name].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="only this one")
    parser.add_argument("overrides", nargs="*", help="as for cfexplain train")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        are_equal = [compared(Path(folder), dtype, arguments.num_steps, [*OVERRIDES, *arguments.overrides])
                     for dtype in ([arguments.dtype] if arguments.dtype else ["float32", "float64"])]
    where = "where rounding does not decide (float64; float32 from the same state)"
    print(f"\n{'all' if all(are_equal) else 'NOT ALL'} within {WANTED:g} {where}")
    return 0 if all(are_equal) else 1


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        work(json.loads(sys.argv[1]))
    else:
        sys.exit(main())
