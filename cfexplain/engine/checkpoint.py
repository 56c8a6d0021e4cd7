"""Checkpoints: plain dicts of tensors and numbers, renamed into place, read with weights_only=True."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfexplain.errors import DataError

SCHEMA_VERSION = 1


def save(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"schema_version": SCHEMA_VERSION, **values}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, remedy: str) -> dict[str, Any]:
    """DataError where the file is missing, damaged or of another version; `remedy` says what to type."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"no {path}; {remedy}") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged; {remedy}") from error
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path} is no checkpoint of this version of cfexplain; {remedy}")
    return values


def restore(module: nn.Module, values: dict[str, Any], name: str, path: Path, remedy: str) -> None:
    """Load one network's weights out of a checkpoint's values."""
    try:
        module.load_state_dict(values[name])
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{path} does not fit this run's config ({name}); {remedy}") from error
