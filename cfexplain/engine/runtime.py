"""How a run uses the machine: processes, device, threads, determinism."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cfexplain.errors import ConfigError
from cfexplain.lazy import torch

NO_CUDA = "device=cuda, but there is no CUDA device here; use device=auto or device=cpu"
MAX_WORKERS = 4096  # processes, and threads of each: no machine has more cores
GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """processes:     that train together, each on its part of every batch; of train alone.
    num_threads:   of each; null leaves torch's choice.
    deterministic: refuse operations whose result varies between runs.
    precision:     of the products in training (torch.autocast); weights, losses, scores and all that is measured later
                   are float32. auto: bfloat16 where the hardware multiplies it, on GPUs and on CPUs with AMX.
    """

    processes: int
    num_threads: int | None
    deterministic: bool
    allow_tf32: bool
    precision: Precision

    def __post_init__(self) -> None:
        for name in ("processes", "num_threads"):
            number = getattr(self, name)
            if number is not None and not 1 <= number <= MAX_WORKERS:
                raise ValueError(f"{name} must lie between 1 and {MAX_WORKERS}, got {number}")


def check_device(device: Device) -> None:
    """ConfigError for a GPU that cannot be there, found without loading torch."""
    if device is Device.cuda and sys.platform == "linux" and not any(Path(node).exists() for node in GPU_NODES):
        raise ConfigError(NO_CUDA)


def start_torch(runtime: Runtime, device: Device, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Set torch up for this process and choose the device: of `local_size` processes on this machine each has a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when CUDA starts
    if device is Device.cuda and not torch.cuda.is_available():
        raise ConfigError(NO_CUDA)
    if runtime.num_threads is not None:
        torch.set_num_threads(runtime.num_threads)
    # Faded activations and Adam's moments sink into denormal numbers, on which a CPU is about four times slower here.
    torch.set_flush_denormal(True)
    # As torch.use_deterministic_algorithms, without its import of the compiler, which takes seconds.
    torch.set_deterministic_debug_mode("error" if runtime.deterministic else "default")
    torch.set_float32_matmul_precision("high" if runtime.allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = runtime.allow_tf32  # convolutions, which the line above leaves alone
    use_cuda = device is Device.cuda or (device is Device.auto and torch.cuda.is_available())
    if use_cuda and local_size > 1:
        if local_size > (num_gpus := torch.cuda.device_count()):
            raise ConfigError(too_few_gpus(local_size, num_gpus))
        torch.cuda.set_device(local_rank)
    return torch.device("cuda" if use_cuda else "cpu")


def autocast_dtype(runtime: Runtime, device: torch.device) -> torch.dtype | None:
    """What training multiplies in; None: as the weights are, float32."""
    if runtime.precision is not Precision.auto:
        return torch.bfloat16 if runtime.precision is Precision.bfloat16 else None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch >= 2.9
    return torch.bfloat16 if capabilities.get("amx_bf16") else None


def too_few_gpus(num_processes: int, num_gpus: int) -> str:
    return (
        f"{num_processes} processes need as many GPUs, and here {'is' if num_gpus == 1 else 'are'} {num_gpus}: "
        f"set runtime.processes={num_gpus}, or device=cpu"
    )


def device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
