"""What all tests share: databases, a clock, an API in this process."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import hypothesis
import pytest
import structlog

from deploy.ray_head import RayHead
from service.storage import schema
from service.storage.database import Database
from tests.support.core import Clock, Core
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.ray import ray_head

# Where the tests themselves run in the background of a shell, Ctrl-C is ignored by all that they
# start, and some of it is told to end that way.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile(
    "resnetd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("resnetd")


@pytest.fixture(autouse=True)
def _fresh_logs() -> Iterator[None]:
    """A command that a test calls configures the logs, for an output that is gone after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def head() -> Iterator[RayHead]:
    """One Ray head for all tests that need one: it takes as long to start as a test."""
    with ray_head() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of each kind, without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'resnetd.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "resnetd.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    url = postgres.new_database()
    _migrate(url)
    return url


def _migrate(url: str) -> None:
    with closing(Database(url)) as database:
        schema.upgrade(database)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database of each kind: a copy, for migrations take longer than most tests."""
    if request.param == "sqlite":
        path = tmp_path / "resnetd.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database(copied_from=request.getfixturevalue("migrated_postgres"))
    yield url
    server.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def core(database: Database, clock: Clock) -> Core:
    return Core(database, clock)
