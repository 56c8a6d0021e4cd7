"""The one door to torch: it loads at the first use of one of its names, not at import.

Help is shown and a config is checked without torch, which takes seconds to load; and yet a spec and its network stand
in one file. `from cfexplain.lazy import F, Tensor, nn, torch` is read as torch's own import would be. Until torch is
there, `nn.Module` as a base is a stand-in, which gets torch's class for a base of its own when torch loads.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import scipy.ndimage as ndimage
    import scipy.stats as stats
    import timm
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    import torchmetrics.functional.image as image_metrics
    import torchvision
    from torch import Tensor, nn
    from torch.distributed.launcher import api as launcher
    from torch.utils import tensorboard
    from torchmetrics.image import fid, kid
    from torchvision.transforms import v2

Function = TypeVar("Function", bound=Callable[..., Any])


class LazyModule:
    """Stands for a module, which is imported when one of its names is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name)
        _Module.become_real()
        setattr(self, name, value)
        return value


class _Stand:
    """Python exchanges the bases of a class only where they are no plain `object`."""


class _Module(_Stand):
    """The base of every network here that was defined before torch was loaded."""

    def __new__(cls, *_: object, **__: object) -> Any:
        _Module.become_real()
        return object.__new__(cls)

    @staticmethod
    def become_real() -> None:
        if _Module.__bases__ == (_Stand,):
            _Module.__bases__ = (importlib.import_module("torch.nn").Module,)


class _Networks(LazyModule):
    """torch.nn, whose Module may be named as a base before torch is loaded."""

    @property
    def Module(self) -> type:  # noqa: N802: torch's name
        return sys.modules["torch.nn"].Module if "torch.nn" in sys.modules else _Module


class _IsTensor(type):
    def __instancecheck__(cls, value: object) -> bool:
        return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def no_grad(function: Function) -> Function:
    """@torch.no_grad() for a function that is defined before torch is loaded."""

    @functools.wraps(function)
    def without_gradients(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return function(*args, **kwargs)

    return without_gradients  # type: ignore[return-value]


if not TYPE_CHECKING:
    torch, nn = LazyModule("torch"), _Networks("torch.nn")
    F, dist = LazyModule("torch.nn.functional"), LazyModule("torch.distributed")
    launcher = LazyModule("torch.distributed.launcher.api")
    torchvision, v2 = LazyModule("torchvision"), LazyModule("torchvision.transforms.v2")
    ndimage, stats = LazyModule("scipy.ndimage"), LazyModule("scipy.stats")
    fid, kid = LazyModule("torchmetrics.image.fid"), LazyModule("torchmetrics.image.kid")
    image_metrics = LazyModule("torchmetrics.functional.image")
    tensorboard, timm = LazyModule("torch.utils.tensorboard"), LazyModule("timm")

    class Tensor(metaclass=_IsTensor):
        """For annotations and isinstance."""
