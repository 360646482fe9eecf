"""Transactions, the write lock, the dispatcher lock, and an unavailable database."""

import os
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from service.errors import DatabaseUnavailable, DispatcherAlreadyRunning, InvalidInput
from service.storage.database import Database
from service.storage.tables import ClusterRow, WebhookRow
from tests.support.core import START
from tests.support.postgres import PostgresServer


def _row(cpus: int = 4) -> ClusterRow:
    return ClusterRow(id=1, cpus=cpus, gpus=0, seen_at=START)


def _count(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(ClusterRow)).all())


def test_a_transaction_is_committed_at_its_end(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row())
    assert _count(database) == 1


def test_an_exception_rolls_the_transaction_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        session.add(_row())
        session.flush()
        _ = 1 / 0
    assert _count(database) == 0


def test_a_reading_session_does_not_commit(database: Database) -> None:
    with database.reading() as session:
        session.add(_row())
        session.flush()
    assert _count(database) == 0


def test_a_reading_session_sees_one_snapshot(database: Database) -> None:
    with database.reading() as session:
        assert session.get(ClusterRow, 1) is None
        with database.transaction() as other:
            other.add(_row())
        assert session.scalars(select(ClusterRow)).all() == []


def test_times_are_read_as_aware_and_in_utc(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row())
    with database.reading() as session:
        assert session.get_one(ClusterRow, 1).seen_at.isoformat() == "2026-11-21T12:00:00+00:00"


def test_concurrent_read_modify_write_loses_no_update(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row(cpus=0))
    barrier = threading.Barrier(2)

    def count_up() -> None:
        barrier.wait()
        for _ in range(20):
            with database.transaction() as session:
                row = session.get_one(ClusterRow, 1, with_for_update=True)
                row.cpus += 1

    threads = [threading.Thread(target=count_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert session.get_one(ClusterRow, 1).cpus == 40


def test_an_exhausted_pool_means_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.01)
    monkeypatch.setattr(database.engine.pool, "_max_overflow", 0)
    taken = [database.engine.connect() for _ in range(database.engine.pool.size())]  # type: ignore[attr-defined] # a QueuePool's
    try:
        with pytest.raises(DatabaseUnavailable):
            database.check()
    finally:
        for connection in taken:
            connection.close()


def test_a_missing_directory_means_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/no/such/folder/resnetd.db")
    with pytest.raises(DatabaseUnavailable, match="does not respond"):
        database.check()


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"),
        *("postgresql://me:hunter2@db:port/x", "postgresql://me:hunter2@db/x?no_such_option=1"),
        *("postgresql://me:hunter2%@db/x", "me:hunter2@db/x"),
    ],
)
def test_a_url_of_another_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^RESNETD_DATABASE_URL: ") as raised:
        Database(url)
    assert "hunter2" not in str(raised.value)


def test_the_host_of_a_url_may_be_an_ipv6_address() -> None:
    database = Database("postgresql://me@[::1]:1/x")
    with pytest.raises(DatabaseUnavailable, match=r"server at .::1., port 1 failed"):
        database.check()
    database.close()


@pytest.mark.db
def test_a_database_without_an_encoding_has_text(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            "CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
        )
        url = postgres.url.removesuffix("postgres") + "plain"
        try:
            with closing(Database(url)) as database, database.reading() as session:
                assert session.scalar(text("SELECT 'ü'")) == "ü"
        finally:
            connection.execute("DROP DATABASE plain WITH (FORCE)")


def test_sqlite_allows_one_dispatcher_and_postgres_several(
    own_database: Database, database_url: str
) -> None:
    other = Database(database_url)
    with own_database.lock_dispatcher():
        if own_database.is_sqlite:
            expected = rf"process {os.getpid()} is already .* SQLite allows one"
            with pytest.raises(DispatcherAlreadyRunning, match=expected), other.lock_dispatcher():
                pass
        else:
            with other.lock_dispatcher():
                pass
    with other.lock_dispatcher():
        pass
    other.close()


def test_an_error_of_the_database_has_no_values_of_rows(database: Database) -> None:
    row = {"id": "0" * 16, "url": "x", "states": [], "user": "ann", "created_at": START}
    with database.transaction() as session:
        session.add(WebhookRow(**row, secret="s3cret"))
    with pytest.raises(IntegrityError) as raised, database.transaction() as session:
        session.add(WebhookRow(**row, secret="an0ther"))
    assert "webhooks" in str(raised.value)
    assert "an0ther" not in str(raised.value)
