"""Runs that several tests of a file share."""

from pathlib import Path

import pytest


@pytest.fixture
def inside(place, monkeypatch, session_cache) -> Path:
    """What the test file's own `place` fixture has made, as the current folder of this process."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("CFEXPLAIN_CACHE", str(session_cache))
    return place
