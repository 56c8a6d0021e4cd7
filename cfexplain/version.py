"""The version, for pyproject.toml, `--version` and run.json."""

from __future__ import annotations

VERSION = "0.1.0"
