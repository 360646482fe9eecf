"""Machines for the tests that need several, or the reason why there are none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.workload import ReferenceRun, run_reference
from tests.hosts.cases import TWO_HOSTS
from tests.hosts.support import Network, find_obstacle, running_network


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    with running_network() as running:
        yield running


@pytest.fixture(scope="session")
def reference(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ReferenceRun:
    """The job on one machine, over the loopback. After the start of the machines: it may skip."""
    del network
    folder: Path = tmp_path_factory.mktemp("reference") / "run"
    return run_reference(TWO_HOSTS, folder)
