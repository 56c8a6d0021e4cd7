"""The version, for pyproject.toml, `--version` and run.json, and those of other packages."""

from __future__ import annotations

from importlib import metadata

VERSION = "0.1.0"


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
