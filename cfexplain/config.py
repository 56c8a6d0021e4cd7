"""Config nodes -> frozen, typed, checked dataclasses. YAML holds values; the dataclass holds types and ranges.

A mistake is found before torch loads and named in one line, with its place in the config in front.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import math
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, make_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import __version__ as omegaconf_version, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cfexplain.errors import ConfigError, DataError, did_you_mean
from cfexplain.older_runs import todays_target
from cfexplain.yaml_files import yaml_text

PACKAGE = "cfexplain"
PLACES = (  # keys that change no number
    "run_dir", "output_root", "cache_dir", "dataset.cache_dir", "data_root", "exposure_root", "json", "dry_run",
)
Spec = TypeVar("Spec")
_REGISTER = "register_new_resolver" if omegaconf_version.startswith("2.3") else "register_resolver"  # renamed in 2.4
register_resolver = getattr(OmegaConf, _REGISTER)


def build(
    node: DictConfig | Mapping, expected_base: type[Spec], path: str = "", allow_custom_code: bool = False
) -> Spec:
    """The spec that `_target_` names, with the node's values; it must be an `expected_base`.

    path: where the node stands in the config ("dataset"), for messages.
    """
    if not isinstance(node, Mapping | DictConfig):
        raise ConfigError(f"{path} must be a group of values, got {node!r:.60}")
    values = plain(node, path)
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError(f"{path or 'config'} has no _target_: choose one with {path}=<name>")
    cls = _class_at(todays_target(target), path, allow_custom_code)
    if not (is_dataclass(cls) and issubclass(cls, expected_base)):
        raise ConfigError(f"{path}._target_: {target} is not a {expected_base.__name__}")
    if inspect.isabstract(cls):
        raise ConfigError(f"{path}._target_: {target} is what a {path} is made of, and none itself")
    return _instance(cls, values, path, allow_custom_code)


def build_root(node: DictConfig | Mapping, cls: type[Spec], allow_custom_code: bool | None = None) -> Spec:
    """The whole config of a command. A field annotated with a spec's base class is built from its `_target_`."""
    values = plain(node, "")
    if allow_custom_code is None:
        allow_custom_code = values.get("allow_custom_code") is True
    return _instance(cls, values, "", allow_custom_code)


def conf_dir() -> Path:
    """conf/: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise DataError("cfexplain's conf/ folder is missing; reinstall it: pip install --force-reinstall cfexplain")


def read(file: Path, resolve: bool = True) -> dict[str, Any]:
    """The saved config of a run, as plain values; its references as they are written where not `resolve`."""
    import yaml

    try:
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(yaml_text(file))), resolve=resolve)
    except FileNotFoundError as error:
        raise DataError(f"no config at {file}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise DataError(f"{file} is damaged: {_first_line(error)}") from error
    if not isinstance(values, dict):
        raise DataError(f"{file} is damaged: it holds no mapping")
    return values


def to_yaml(node: DictConfig | Mapping) -> str:
    """Resolved YAML of a config, keys in their order."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(node, "")))


def without_run_dir(cfg: DictConfig) -> DictConfig:
    """A config as a run keeps it: the folder is not a part of what was asked for."""
    return OmegaConf.merge(cfg, {"run_dir": None}) if cfg.run_dir is not None else cfg


def first_difference(old: Mapping, new: Mapping, ignore: tuple[str, ...] = ()) -> str | None:
    """The first dotted key in which two configs differ, or None. `ignore`: keys that may differ."""
    before, after = flat(old), flat(new)
    for key in [*after, *before]:
        if key not in ignore and before.get(key, ...) != after.get(key, ...):
            return key
    return None


def flat(values: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys; targets by the names that they have in this version."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = todays_target(str(value)) if key == "_target_" else value
    return leaves


def known_keys(values: Mapping) -> list[str]:
    """Every dotted key, inner ones too."""
    keys: list[str] = []
    for key, value in values.items():
        inner = known_keys(value) if isinstance(value, Mapping) else []
        keys += [str(key), *(f"{key}.{name}" for name in inner)]
    return keys


def knows_both(cfg: DictConfig) -> bool:
    """Whether the dataset has classes that are neither normal nor anomalous, so that either list says something."""
    target, is_custom = todays_target(str(cfg.dataset.get("_target_"))), cfg.get("allow_custom_code") is True
    return getattr(_class_at(target, "dataset", is_custom), "anomalous_replaces_normal", True) is False


def plain(node: DictConfig | Mapping, path: str = "") -> dict[str, Any]:
    """Resolved plain values; `???` stays, so that it can be named."""
    try:
        node = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
        return typing.cast(dict, OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_join(path, error.full_key or '')}: {_first_line(error)}") from error


def sha256_of(path: str | None) -> str | None:
    """Digest of a file, for ${sha256_of:<path>} in conf/; None without one, which is said where it is read."""
    try:
        path = None if path is None else os.path.expanduser(path)
        state = Path(path).stat() if path is not None else None
        return None if state is None else _sha256(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return None


@lru_cache
def _sha256(path: str, changed_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


register_resolver("sha256_of", sha256_of, replace=True)


def _class_at(target: str, path: str, allow_custom_code: bool) -> type:
    module_name, _, name = target.rpartition(".")
    if not target.startswith(f"{PACKAGE}.") and not allow_custom_code:
        raise ConfigError(
            f"{path}._target_: {target} lies outside {PACKAGE}, and a config file must not run code unasked. "
            "If you trust it, add allow_custom_code=true"
        )
    if allow_custom_code and "" not in sys.path:
        sys.path.insert(0, "")  # a class in a file of the working directory, as `python -m` would find it
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}._target_: cannot import {target}: {_first_line(error)}") from error
    if not isinstance(cls, type):
        raise ConfigError(f"{path}._target_: {target} is not a class")
    return cls


def _instance(cls: type[Spec], values: dict[str, Any], path: str, allow_custom_code: bool) -> Spec:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown key {_join(path, key)}.{did_you_mean(key, names)}")
    arguments = {}
    for name in names:
        if values.get(name, "???") == "???":
            raise ConfigError(f"{_join(path, name)} is not set: give it as {_join(path, name)}=<value>")
        arguments[name] = _value(values[name], hints[name], _join(path, name), allow_custom_code)
    try:
        built = cls(**arguments)
    except ValueError as error:
        message = _first_line(error)
        # A spec names its own field first ("normal must ..."); with the group in front it reads as a config key.
        separator = "." if message.split(" ", 1)[0].rstrip(":") in names else ": "
        raise ConfigError(f"{path}{separator}{message}" if path else message) from error
    for name, value in arguments.items():
        items = [(f"[{index}]", item) for index, item in enumerate(value)] if isinstance(value, list) else [("", value)]
        for place, item in items:
            if isinstance(item, str) and not item.strip():
                raise ConfigError(f"{_join(path, name)}{place} is empty: give a text, or leave it out")
    return built


def _value(value: Any, hint: Any, path: str, allow_custom_code: bool) -> Any:
    """`value` as the annotation `hint` wants it: a spec, a nested dataclass, an Enum, or a checked plain value."""
    if typing.get_origin(hint) is dict and isinstance(typing.get_args(hint)[1], type):
        base = typing.get_args(hint)[1]
        if isinstance(value, Mapping) and base.__module__.startswith(PACKAGE):
            return {key: build(node, base, f"{path}.{key}", allow_custom_code) for key, node in value.items()}
    if isinstance(hint, type) and isinstance(value, Mapping) and "_target_" in value:
        return build(value, hint, path, allow_custom_code)
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a group of values, got {value!r}")
        return _instance(hint, dict(value), path, allow_custom_code)
    return _plain_value(value, hint, path)


@lru_cache(maxsize=None)
def _holder(hint: Any) -> DictConfig:
    return OmegaConf.structured(make_dataclass("Holder", [("value", hint)]))


def _plain_value(value: Any, hint: Any, path: str) -> Any:
    """Types as OmegaConf enforces them on the command line; tuples and Enums as annotated."""
    inner = _without_none(hint)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return None if value is None and inner is not hint else _member(inner, value, path)
    if inner is list or inner is tuple or typing.get_origin(inner) in (list, tuple):
        element = (typing.get_args(inner) or (Any,))[0]
        if value is None and inner is not hint:
            return None
        if isinstance(value, str | int) and not isinstance(value, bool) and element in (str, int):
            value = [value]  # dataset.normal=speed_limits, images=part.png
        if not isinstance(value, list):
            raise ConfigError(f"{path} must be a list, like [{value}], got {value!r}")
        items = [_plain_value(item, element, f"{path}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if (typing.get_origin(inner) or inner) is tuple else items
    try:
        typed = OmegaConf.merge(_holder(hint), {"value": value}).value
        typed = OmegaConf.to_container(typed) if isinstance(typed, DictConfig) else typed
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path} must be {_described(hint)}, got {value!r}") from error
    for each in typed.values() if isinstance(typed, dict) else [typed]:
        if isinstance(each, float) and not math.isfinite(each):
            raise ConfigError(f"{path} must be a finite number, got {each}")
    return typed


def _member(enum: type[Enum], value: Any, path: str) -> Enum:
    for member in enum:
        if value is member or str(value) in (str(member.value), member.name, member.name.lower()):
            return member
    options = [str(member.value) for member in enum]
    hint = did_you_mean(str(value), options)
    raise ConfigError(f"{path} must be one of {', '.join(options)}, got {value!r}.{hint}")


def _without_none(hint: Any) -> Any:
    """`X | None` -> X."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else hint
    return hint


def _described(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    inner = _without_none(hint)
    return names.get(inner, getattr(inner, "__name__", str(inner))) + (" or null" if inner is not hint else "")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
