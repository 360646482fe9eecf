from collections.abc import Iterator

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
    settings = {"RESNETD_WARM_RUNNER_WORKERS": "2", "RESNETD_MAX_CPUS": "2"}
    with running_service(head, path, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def without_standbys(
    head: RayHead, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalService]:
    """On PostgreSQL."""
    path = tmp_path_factory.mktemp("service")
    settings = {"RESNETD_WARM_RUNNERS": "0", "RESNETD_DATABASE_URL": postgres.new_database()}
    with running_service(head, path, **settings) as running:
        yield running


@pytest.fixture
def client(service: LocalService) -> Iterator[resnetd.Client]:
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened


@pytest.fixture(
    params=[
        pytest.param("service", id="SQLite with a standby"),
        pytest.param("without_standbys", id="PostgreSQL and no standby", marks=pytest.mark.db),
    ]
)
def client_of_either(request: pytest.FixtureRequest) -> Iterator[resnetd.Client]:
    service: LocalService = request.getfixturevalue(request.param)
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened
