"""PostgreSQL that is read-only, slow, silent, or behind PgBouncer in transaction mode."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import text

from service.errors import DatabaseUnavailable
from service.storage import changes, database, schema
from service.storage.changes import ANYTHING, ChangeKind
from service.storage.database import Database
from service.storage.tables import ClusterRow
from tests.support.core import START, Clock, Core
from tests.support.fake_api import eventually
from tests.support.postgres import PostgresServer, pgbouncer

pytestmark = pytest.mark.db


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def postgres_url(postgres: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    url = postgres.new_database(copied_from=migrated_postgres)
    yield url
    postgres.drop(url)


@pytest.fixture
def pooled_url(postgres: PostgresServer, postgres_url: str) -> Iterator[str]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    with pgbouncer(postgres, program) as port:
        eventually(lambda: _accepts(port))
        yield f"postgresql://postgres@127.0.0.1:{port}/{postgres_url.rpartition('/')[2]}"


def _set_read_only(url: str, value: str) -> None:
    """As after a failover: existing sessions keep what they had, new ones get the value."""
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode()
        )


def test_a_read_only_database_is_unavailable_until_it_is_writable_again(postgres_url: str) -> None:
    _set_read_only(postgres_url, "on")
    with closing(Database(postgres_url)) as opened:
        with pytest.raises(DatabaseUnavailable, match="read-only"), opened.transaction() as session:
            session.add(ClusterRow(id=1, cpus=4, gpus=0, seen_at=START))
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            opened.check()
        with opened.reading() as session:
            assert session.get(ClusterRow, 1) is None
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(
                f"ALTER DATABASE {postgres_url.rpartition('/')[2]}"
                " RESET default_transaction_read_only".encode()
            )
        # Not after a restart only: connections of the read-only time are replaced.
        with pytest.raises(DatabaseUnavailable):
            opened.check()
        opened.check()
        with opened.transaction() as session:
            session.add(ClusterRow(id=1, cpus=4, gpus=0, seen_at=START))


def test_jobs_run_through_pgbouncer_in_transaction_mode(pooled_url: str) -> None:
    with closing(Database(pooled_url)) as opened:
        schema.upgrade(opened)
        core = Core(opened, Clock())

        def run_jobs() -> None:
            # psycopg prepares a statement that a connection executes the sixth time.
            for _ in range(8):
                opened.check()

        threads = [threading.Thread(target=run_jobs) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(3):
            core.finish(core.run().attempt_id)


def test_a_listener_polls_where_pgbouncer_hides_notifications(
    pooled_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "POLL_SECONDS", 0.01)
    with closing(Database(pooled_url)) as opened:
        listener = opened.listen(ChangeKind.STATE)
        listener.wait(0.0)
        with opened.transaction() as session:
            session.add(ClusterRow(id=1, cpus=4, gpus=0, seen_at=START))
            changes.notify(session, "x")
        assert listener.wait(30.0) == {ANYTHING}
        listener.close()


def test_a_statement_ends_after_its_time_limit(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_SECONDS", 0.1)
    with closing(Database(postgres_url)) as opened:
        expected = pytest.raises(DatabaseUnavailable, match="statement timeout")
        with expected, opened.transaction() as session:
            session.execute(text("SELECT pg_sleep(60)"))
        opened.check()


@pytest.mark.parametrize("uses_listener", [False, True])
def test_a_server_that_does_not_answer_is_unavailable(
    uses_listener: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database.CONNECTION_OPTIONS, "connect_timeout", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/x"
        with closing(Database(url)) as opened, pytest.raises(DatabaseUnavailable, match="timeout"):
            if uses_listener:
                opened.listen(ChangeKind.STATE).wait(0.0)
            else:
                opened.check()


def test_options_of_the_url_override_the_defaults(postgres_url: str) -> None:
    with closing(Database(f"{postgres_url}?connect_timeout=3")) as opened:
        with opened.engine.connect() as connection:
            session = connection.connection.driver_connection
            assert isinstance(session, psycopg.Connection)
            used = session.info.get_parameters()
        assert (used["connect_timeout"], used["keepalives_idle"]) == ("3", "15")


def test_of_several_hosts_the_one_that_accepts_writes_is_used(
    postgres_url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first does not answer, the second refuses connections."""
    monkeypatch.setitem(database.CONNECTION_OPTIONS, "connect_timeout", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:1,127.0.0.1:{postgres.port}"
        name = postgres_url.rpartition("/")[2]
        url = f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write"
        with closing(Database(url)) as opened:
            listener = opened.listen(ChangeKind.STATE)
            listener.wait(0.0)
            with opened.transaction() as session:
                session.add(ClusterRow(id=1, cpus=4, gpus=0, seen_at=START))
                changes.notify(session, "x")
            assert listener.wait(30.0) == {"x"}
            listener.close()
            opened.check()


def test_no_host_that_accepts_writes_is_unavailable(postgres_url: str) -> None:
    _set_read_only(postgres_url, "on")
    with (
        closing(Database(f"{postgres_url}?target_session_attrs=read-write")) as opened,
        pytest.raises(DatabaseUnavailable, match="read-only"),
    ):
        opened.check()
