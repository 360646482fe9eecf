"""Shared fixtures: databases, a clock, a Ray head, a browser."""

import fcntl
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
from playwright.sync_api import ConsoleMessage, Page

from deploy.ray_head import RayHead
from service import log
from service.storage import schema
from service.storage.database import Database
from tests.support.browser import NO_CHROMIUM, find_chromium, launch_options
from tests.support.bucket import BucketServer, bucket_server
from tests.support.core import Clock, Core
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.ray import ray_head
from tests.support.reused_databases import ReusedDatabase, ReusedPostgres, ReusedSqlite
from tests.support.searching import Searching


def _drop_unless_warning(
    _logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A line for each request would hide what pytest prints. `capture_logs` has all of them."""
    if method in {"debug", "info"}:
        raise structlog.DropEvent
    return event


_LOG_PROCESSORS: list[structlog.typing.Processor] = [
    _drop_unless_warning,
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
]

# With as many threads as cores, those of two test processes wait for each other at every operation:
# a backward pass of half a second takes over a minute. Torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with SIGINT ignored, which child processes inherit; tests stop
# some of them with SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on the machine.
hypothesis.settings.register_profile(
    "resnetd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("resnetd")


@pytest.fixture(autouse=True)
def _fresh_logs() -> Iterator[None]:
    """Resets the log configuration of a command: its output is closed after the test.

    Without tracebacks of Rich, which take seconds for one of a request. A service in the process
    of a test logs beside what `capsys` sees: the output of commands.
    """
    structlog.configure(
        processors=_LOG_PROCESSORS, logger_factory=structlog.PrintLoggerFactory(sys.__stderr__)
    )
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in log.LIBRARY_LEVELS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def buckets() -> Iterator[BucketServer]:
    with bucket_server() as running:
        yield running


@pytest.fixture(scope="session")
def head() -> Iterator[RayHead]:
    """A single Ray head for all tests: starting it takes as long as a test."""
    with ray_head() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database without tables, of each backend."""
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
    """The URL of a new database, of each backend; a copy, since migrations are slower."""
    if request.param == "sqlite":
        path = tmp_path / "resnetd.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database(copied_from=request.getfixturevalue("migrated_postgres"))
    yield url
    server.drop(url)


@pytest.fixture(scope="session")
def _reused_sqlite(migrated_sqlite: Path) -> Iterator[ReusedDatabase]:
    with closing(ReusedSqlite(migrated_sqlite)) as reused:
        yield reused


@pytest.fixture(scope="session")
def _reused_postgres(postgres: PostgresServer, migrated_postgres: str) -> Iterator[ReusedDatabase]:
    with closing(ReusedPostgres(postgres.new_database(copied_from=migrated_postgres))) as reused:
        yield reused


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def database(request: pytest.FixtureRequest) -> Database:
    """A database with the rows of a new one, of each backend.

    All tests use the same: its statements are compiled and its connections are open.
    """
    name = "_reused_sqlite" if request.param == "sqlite" else "_reused_postgres"
    reused: ReusedDatabase = request.getfixturevalue(name)
    reused.restore()
    return reused.database


@pytest.fixture
def own_database(database_url: str) -> Iterator[Database]:
    """A new database for tests that would change what `database` keeps: settings and statistics."""
    with closing(Database(database_url)) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def core(database: Database, clock: Clock) -> Core:
    return Core(database, clock)


@pytest.fixture
def searching(core: Core) -> Searching:
    return Searching(core)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Of all processes of this run: apt-get permits one at a time.
    with (tmp_path_factory.getbasetemp().parent / "chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = find_chromium()
    if found is None:
        pytest.skip(NO_CHROMIUM)
    return found


@pytest.fixture(scope="session")
def base_url() -> None:
    """Tests open complete URLs. The plugin's own fixture causes a deprecation warning."""


@pytest.fixture(scope="session")
def browser_type_launch_args(chromium: str) -> dict[str, Any]:
    return launch_options(chromium)


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    """Errors in the page's console, of which a test may have none; 401 asks for the sign-in."""
    found: list[str] = []

    def record(message: ConsoleMessage) -> None:
        if message.type == "error" and "401 (Unauthorized)" not in message.text:
            found.append(message.text)

    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", record)
    yield found
    assert found == []
