from collections.abc import Iterator
from pathlib import Path

import pytest

import resnetd
from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.postgres import PostgresServer
from tests.support.services import running_service


@pytest.fixture(scope="session")
def service(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """On SQLite, with a standby of two workers and room for no other; tests leave it as it was."""
    path = tmp_path_factory.mktemp("service")
    settings = {"RESNETD_STANDBY_WORKERS": "2", "RESNETD_MAX_CPUS": "2"}
    with running_service(head, path, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def without_standbys(
    head: RayHead, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalService]:
    path = tmp_path_factory.mktemp("service")
    with running_service(head, path, RESNETD_STANDBYS="0") as running:
        yield running


@pytest.fixture
def postgres_service(
    head: RayHead, postgres: PostgresServer, tmp_path: Path
) -> Iterator[LocalService]:
    settings = {"RESNETD_DATABASE_URL": postgres.new_database(), "RESNETD_STANDBYS": "0"}
    with running_service(head, tmp_path, **settings) as running:
        yield running


@pytest.fixture
def client(service: LocalService) -> Iterator[resnetd.Client]:
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened


@pytest.fixture(params=["standby", "no-standby"])
def client_of_either(request: pytest.FixtureRequest) -> Iterator[resnetd.Client]:
    """Of a service with standbys, then of one without."""
    name = {"standby": "service", "no-standby": "without_standbys"}[request.param]
    service: LocalService = request.getfixturevalue(name)
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened
