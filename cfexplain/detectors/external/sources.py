"""Where an external detector's network comes from: a function of the user's, or a file that torch reads and may read.

What a file is, is looked up in its zip directory before anything is loaded. A Python pickle runs code when it is read,
so it is refused. TorchScript is a program in a language of its own, without Python; a torch.export program is a list of
operators. Both are searched for what reaches beyond tensors: operators that touch files, pickles packed inside, names
that torch would import or evaluate. This is no sandbox; it refuses what it recognises, and it knows the layout of the
torch versions that it was written for.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import logging
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from cfexplain.errors import ConfigError, DataError
from cfexplain.files import grows, regular, replacing
from cfexplain.lazy import nn, Tensor, torch


def read_network(path: Path, sha256: str | None) -> nn.Module:
    """The network in a TorchScript file or torch.export program, on the CPU."""
    content = _checked_content(path, sha256)
    kind, file = file_format(path, content), io.BytesIO(content)
    logging.getLogger("torch.export").disabled = True  # of a damaged file it prints a traceback beside its exception
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
    except (Exception, SystemExit) as error:  # noqa: BLE001: importing runs the user's code
        raise ConfigError(f"detector.factory={factory} cannot be imported: {short(error)}") from error
    try:
        network = function()
    except (Exception, SystemExit) as error:  # noqa: BLE001: the user's code
        raise ConfigError(f"detector.factory={factory} failed when it was called: {short(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"detector.factory={factory} returns {type(network).__name__}, wanted a torch.nn.Module")
    return network


class AnomalibScore(nn.Module):
    """A model of anomalib (Akcay et al., 2022) as a network that lets gradients through.

    Most of its models compute features under torch.no_grad, so nothing could be learnt from their score; here that
    switch is out of order while they run. Of a whole anomalib model its pre-processor and its torch model are taken;
    the post-processor is left out, for it clamps scores to [0, 1], and what is clamped has no gradient.
    """

    def __init__(self, model: nn.Module, source: str) -> None:
        super().__init__()
        is_whole = hasattr(model, "post_processor")  # Lightning's module around the torch model
        self.pre_processor = getattr(model, "pre_processor", None) if is_whole else None
        self.model = model.model if is_whole else model
        self.source = source

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N,): pred_score or, where a model gives none, the maximum of anomaly_map."""
        with _gradients_kept():
            output: Any = self.model(images if self.pre_processor is None else self.pre_processor(images))
        score, anomaly_map = getattr(output, "pred_score", None), getattr(output, "anomaly_map", None)
        if score is None and anomaly_map is None:
            raise ConfigError(f"{self.source} gives no pred_score and no anomaly_map, as models of anomalib do; with "
                              "another model leave detector.kind out")
        return anomaly_map.flatten(1).amax(dim=1) if score is None else score.flatten()


def _gradients_kept() -> Any:
    """A mode in which whoever switches gradients off, or on, is not heard: it stays as it was outside."""

    class GradientsKept(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))

    return GradientsKept()


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
        if (size := regular(path).stat().st_size) > MAX_BYTES:
            limit = f"{size / 2**20:.0f} MB, {MAX_BYTES >> 20} are read"
            raise DataError(f"{path} is too large ({limit}); load it in a function of yours: {FUNCTION}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"no model at {path} ({error.strerror}); set detector.path to a TorchScript or torch.export "
                        "file") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is not the file that the config was made for (detector.sha256={sha256[:12]}...); put "
                        "that one back or, to take what is there now, train anew with detector.sha256=null")
    return content


MAX_BYTES = 768 * 2**20  # of a model file, which is in memory twice while it is read
FUNCTION = "detector.factory=module:function allow_custom_code=true"
INSTEAD = f"save the model with torch.jit (trace, script) or torch.export, or name a function of yours: {FUNCTION}"
NAMESPACES = {"aten", "prim", "prims"}
FILE_OPERATORS = {"save", "from_file", "load_library"}
SCRIPT_CALL = re.compile(r"\bops\.(\w+)\.(\w+)|\btorch\.(\w+)\(")
OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)")
CONTROL = re.compile(r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop)")
ARITHMETIC = re.compile(
    r"(_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|lshift|rshift|getitem)"
    r"|math\.(trunc|floor|ceil|sqrt)|torch\.(sym_\w+|_sym_sqrt))"
)
EXPRESSION = re.compile(  # of sizes: Mod(2*Symbol('s77', positive=True, integer=True) + 1, 3)
    r"(?:'\w++'|(?:integer|positive|nonnegative|real)=|[a-z]+\d++|[A-Z][A-Za-z]*+|\d++(?:\.\d++)?"
    r"|[\s+*/%(),<>=!&|~-])*+"
)
IMPORTING = ("__enum__", "default_factory")  # parts of a tree spec for which torch imports a module


class Format(Enum):
    torchscript = "TorchScript"
    exported = "torch.export"


def file_format(path: Path, content: bytes) -> Format:
    """Which of the two the content of `path` is. DataError for anything else, and what reaches beyond tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _checked(path, archive)
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, RecursionError) as error:
        reason = f"neither a TorchScript file nor a torch.export program; {INSTEAD}"
        if content[:1] == b"\x80":
            reason = f"a Python pickle, which can run code when it is read, and is not opened; {INSTEAD}"
        elif content[:2] == b"PK":
            reason = "a damaged TorchScript or torch.export file; save it again"
        raise DataError(f"{path} is {reason}") from error


def _checked(path: Path, archive: zipfile.ZipFile) -> Format:
    if grows(archive):
        raise DataError(f"{path} unpacks to far more than its size, as nothing that torch writes does; do not trust it")
    names = archive.namelist()
    folder = names[0].partition("/")[0] + "/" if names else ""
    inside = {name.removeprefix(folder) for name in names}
    if len({name.lower() for name in names}) < len(names) or not all(name.startswith(folder) for name in names):
        raise DataError(f"{path} is no archive as torch writes it; save it again")
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        _check_script(path, archive, [name for name in names if name.startswith(f"{folder}code/")])
        return Format.torchscript
    if "archive_format" in inside and "models/model.json" in inside:
        _check_program(path, archive, folder, inside)
        return Format.exported
    if "data.pkl" in inside:
        raise DataError(f"{path} was written by torch.save: weights alone, or a pickled model, which can run code when "
                        f"it is read; it is not opened; {INSTEAD}")
    raise DataError(f"{path} is neither a TorchScript file nor a torch.export program; {INSTEAD}")


def _check_script(path: Path, archive: zipfile.ZipFile, names: list[str]) -> None:
    for name in names:
        if name.endswith(".py"):
            for namespace, operator, plain in SCRIPT_CALL.findall(archive.read(name).decode("utf-8", "replace")):
                if namespace not in {*NAMESPACES, ""} or {operator, plain} & FILE_OPERATORS:
                    _refuse(path, f"{namespace or 'torch'}.{operator or plain}")


def _check_program(path: Path, archive: zipfile.ZipFile, folder: str, inside: set[str]) -> None:
    for name in inside:
        if name.startswith("models/") and name != "models/model.json" or name.startswith("data/aotinductor"):
            _refuse(path, name)
        if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
            _refuse(path, f"{name}, a pickle")
        if name.endswith("_config.json"):
            for payload in json.loads(archive.read(folder + name)).get("config", {}).values():
                path_name = str(payload.get("path_name"))
                if payload.get("use_pickle") or path_name.startswith(("custom_obj", "opaque_obj")):
                    _refuse(path, f"{path_name}, a pickled object")
    text = archive.read(f"{folder}models/model.json").decode("utf-8")
    for word in IMPORTING:
        if word in text:
            _refuse(path, f"{word}, for which torch imports a module")
    for key, value in _strings(json.loads(text)):
        if key == "expr_str" and not EXPRESSION.fullmatch(value):
            _refuse(path, f"the expression {value[:60]!r}")
        if key == "target" and value.startswith(("torch", "_operator", "math", "#")) and not _is_operator(value):
            _refuse(path, value)


def _is_operator(target: str) -> bool:
    """A target that torch would look up, by attributes from torch down: a tensor operator, or arithmetic of sizes."""
    found = OPERATOR.fullmatch(target)
    if found is None or found[1] not in NAMESPACES or found[2] in FILE_OPERATORS:
        return bool(CONTROL.fullmatch(target) or ARITHMETIC.fullmatch(target))
    packet = getattr(getattr(torch.ops, found[1]), found[2], None)
    return isinstance(getattr(packet, found[3], None), torch._ops.OpOverload)


def _strings(values: Any) -> Iterator[tuple[str, str]]:
    """Every string in nested values with the key it stands under."""
    if isinstance(values, dict):
        for key, value in values.items():
            if isinstance(value, str):
                yield key, value
            else:
                yield from _strings(value)
    elif isinstance(values, list):
        for value in values:
            yield from _strings(value)


def _refuse(path: Path, what: str) -> None:
    raise DataError(f"{path} holds {what}, which reaches beyond tensors, and is not opened; export the network without "
                    f"it, or load it in a function of yours: {FUNCTION}")
