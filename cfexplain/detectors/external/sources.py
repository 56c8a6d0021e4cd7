"""Where an external detector's network comes from: a file that torch reads, or a function of the user's."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import warnings
from pathlib import Path

from cfexplain.detectors.external.archive import file_format, Format
from cfexplain.errors import ConfigError, DataError
from cfexplain.files import replacing
from cfexplain.lazy import nn, torch


def read_network(path: Path, sha256: str | None) -> nn.Module:
    """The network in a TorchScript file or torch.export program, on the CPU."""
    content = _checked_content(path, sha256)
    kind, file = file_format(path, content), io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls TorchScript deprecated; the file is there all the same
            return torch.jit.load(file, "cpu") if kind is Format.torchscript else torch.export.load(file).module()
    except Exception as error:  # noqa: BLE001: a damaged file can fail in any way, and torch's ways vary with versions
        raise DataError(f"torch cannot read {path} as a {kind.value} file ({short(error)}); save it again, with a "
                        f"torch like this one ({torch.__version__})") from error


def call_factory(factory: str) -> nn.Module:
    """What module:function returns. The module may lie in the working directory."""
    module_name, name = factory.split(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # noqa: BLE001: importing runs the user's code
        raise ConfigError(f"detector.factory={factory} cannot be imported: {short(error)}") from error
    try:
        network = function()
    except Exception as error:  # noqa: BLE001: the user's code
        raise ConfigError(f"detector.factory={factory} failed when it was called: {short(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"detector.factory={factory} returns {type(network).__name__}, wanted a torch.nn.Module")
    return network


def copy_file(path: Path, copy: Path, sha256: str | None) -> None:
    """Whole or not at all; DataError where the file at `path` is not the one that was read."""
    content = _checked_content(path, sha256)
    with replacing(copy) as file:
        file.write(content)


def short(error: BaseException) -> str:
    """The telling line of an exception: torch's own ends with it, behind a traceback of the network's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line and ":" in line] or lines or [""]
    text = telling[-1] if len(lines) > 3 else telling[0]
    return f"{type(error).__name__}: {text}"[:200]


def _checked_content(path: Path, sha256: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"no model at {path} ({error.strerror}); set detector.path to a TorchScript or torch.export "
                        "file") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is not the file that the config was made for (detector.sha256={sha256[:12]}...); put "
                        "that one back or, to take what is there now, train anew with detector.sha256=null")
    return content
