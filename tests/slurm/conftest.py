"""A Slurm for the tests of this folder; skipped, with the reason, where there can be none."""

import sys

import pytest

from tests.conftest import ROOT
from tests.slurm.one_node import NoSlurm, one_node


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    try:
        with one_node(tmp_path_factory.mktemp("slurm")) as here:
            yield here
    except NoSlurm as reason:
        pytest.skip(str(reason))


@pytest.fixture
def cluster(slurm, session_cache):
    """The node's processes find this checkout."""
    slurm.environment.update(
        CFEXPLAIN=f"{sys.executable} -m cfexplain", PYTHONPATH=str(ROOT), CFEXPLAIN_CACHE=str(session_cache)
    )
    return slurm
