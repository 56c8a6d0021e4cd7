"""The version, for pyproject.toml, `--version` and run.json."""

VERSION = "0.1.0"
