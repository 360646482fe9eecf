from collections.abc import Iterator
from pathlib import Path

import pytest

import resnetd
from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.postgres import PostgresServer

# A dispatcher that dies is replaced within seconds here, not within a quarter of a minute.
IMPATIENT = {"RESNETD_LEASE_SECONDS": "3", "RESNETD_POLL_SECONDS": "0.3"}


@pytest.fixture
def service(head: RayHead, tmp_path: Path) -> Iterator[LocalService]:
    """The whole service on SQLite, as its own processes."""
    with LocalService(
        tmp_path / "var", settings=IMPATIENT, logs_path=tmp_path / "logs", ray=head
    ) as running:
        yield running


@pytest.fixture
def postgres_service(
    head: RayHead, postgres: PostgresServer, tmp_path: Path
) -> Iterator[LocalService]:
    settings = {**IMPATIENT, "RESNETD_DATABASE_URL": postgres.new_database()}
    with LocalService(
        tmp_path / "var", settings=settings, logs_path=tmp_path / "logs", ray=head
    ) as running:
        yield running


@pytest.fixture
def client(service: LocalService) -> Iterator[resnetd.Client]:
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened
