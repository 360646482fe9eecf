from collections.abc import Iterator
from pathlib import Path

import pytest

import resnetd
from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.postgres import PostgresServer
from tests.support.services import running_service


@pytest.fixture
def service(head: RayHead, tmp_path: Path) -> Iterator[LocalService]:
    """On SQLite, with one standby."""
    with running_service(head, tmp_path) as running:
        yield running


@pytest.fixture
def postgres_service(
    head: RayHead, postgres: PostgresServer, tmp_path: Path
) -> Iterator[LocalService]:
    with running_service(head, tmp_path, RESNETD_DATABASE_URL=postgres.new_database()) as running:
        yield running


@pytest.fixture
def client(service: LocalService) -> Iterator[resnetd.Client]:
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened
