"""Transactions, the write lock, the change signal, and a database that is away."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, text

from service.errors import DatabaseUnavailable, DispatcherAlreadyRunning, InvalidInput
from service.storage import database as databases
from service.storage import schema
from service.storage.database import ChangeKind, Database
from service.storage.tables import ClusterRow
from tests.support.core import START
from tests.support.postgres import PostgresServer


def _row(cpus: int = 4) -> ClusterRow:
    return ClusterRow(id=1, cpus=cpus, gpus=0, seen_at=START)


def _count(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(ClusterRow)).all())


def test_a_transaction_is_kept_at_its_end(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row())
    assert _count(database) == 1


def test_an_exception_takes_the_whole_transaction_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        session.add(_row())
        session.flush()
        _ = 1 / 0
    assert _count(database) == 0


def test_what_a_reading_session_writes_is_not_kept(database: Database) -> None:
    with database.reading() as session:
        session.add(_row())
        session.flush()
    assert _count(database) == 0


def test_a_reading_session_sees_one_moment(database: Database) -> None:
    with database.reading() as session:
        assert session.get(ClusterRow, 1) is None
        with database.transaction() as other:
            other.add(_row())
        assert session.scalars(select(ClusterRow)).all() == []


def test_time_comes_back_aware_and_in_utc(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row())
    with database.reading() as session:
        assert session.get_one(ClusterRow, 1).seen_at.isoformat() == "2026-11-21T12:00:00+00:00"


def test_two_transactions_that_read_and_then_write_lose_nothing(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row(cpus=0))
    together = threading.Barrier(2)

    def count_up() -> None:
        together.wait()
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


def test_a_commit_by_another_connection_ends_the_wait(database: Database) -> None:
    changes = database.changes()
    changes.wait(0.0)
    noticed: list[bool] = []
    waiting = threading.Thread(target=lambda: noticed.append(changes.wait(30.0)))
    waiting.start()
    with database.transaction() as session:
        session.add(_row())
        databases.notify(session)
    waiting.join()
    changes.close()
    assert noticed == [True]


def test_a_commit_by_another_process_ends_the_wait(database_url: str, database: Database) -> None:
    changes = database.changes()
    changes.wait(0.0)
    program = (
        "import sys; from service.storage import database; from sqlalchemy import text\n"
        "with database.Database(sys.argv[1]).transaction() as session:\n"
        "    session.execute(text('DELETE FROM tokens')); database.notify(session)\n"
        "    session.execute(text(\"INSERT INTO tokens VALUES ('x', 'x', '2026-11-21')\"))\n"
    )
    subprocess.run([sys.executable, "-c", program, database_url], check=True)
    assert changes.wait(30.0)
    changes.close()


def test_without_a_commit_the_wait_ends_with_its_time(database: Database) -> None:
    changes = database.changes()
    changes.wait(0.0)
    assert not changes.wait(0.02)
    changes.close()


def test_a_transaction_that_was_taken_back_wakes_nobody(database: Database) -> None:
    changes = database.changes()
    changes.wait(0.0)
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        session.add(_row())
        databases.notify(session)
        _ = 1 / 0
    assert not changes.wait(0.02)
    changes.close()


def test_progress_wakes_those_only_who_want_to_hear_of_it(database: Database) -> None:
    deaf, keen = database.changes(), database.changes(with_progress=True)
    for each in (deaf, keen):
        each.wait(0.0)
    with database.transaction() as session:
        session.add(_row())
        databases.notify(session, ChangeKind.PROGRESS)
    assert keen.wait(30.0)
    assert not deaf.wait(0.02)
    with database.transaction() as session:
        databases.notify(session)
    assert deaf.wait(30.0)
    assert keen.wait(30.0)
    for each in (deaf, keen):
        each.close()


def test_a_pool_without_a_free_connection_is_a_database_that_is_away(
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


def test_a_missing_folder_is_a_database_that_is_away(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/no/such/folder/resnetd.db")
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        database.check()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="the database"):
        Database(url)


@pytest.mark.db
def test_a_stopped_server_is_away_and_its_restart_is_noticed() -> None:
    from tests.support.postgres import postgres_server  # noqa: PLC0415 - an own server

    with postgres_server() as server:
        _stop_and_start(server)


def _stop_and_start(server: PostgresServer) -> None:
    database = Database(server.new_database())
    schema.upgrade(database)
    changes = database.changes()
    changes.wait(0.0)
    server.stop()
    with pytest.raises(DatabaseUnavailable):
        database.check()
    with pytest.raises(DatabaseUnavailable), database.transaction() as session:
        session.execute(text("SELECT 1"))
    with pytest.raises(DatabaseUnavailable):
        changes.wait(5.0)
    server.start()
    database.check()
    assert changes.wait(5.0), "what happened meanwhile counts as a change"
    changes.close()
    database.close()


def test_sqlite_takes_one_dispatcher_and_postgres_several(database: Database) -> None:
    other = Database(database.engine.url.render_as_string(hide_password=False))
    with database.sole_dispatcher():
        if database.is_sqlite:
            expected = rf"process {os.getpid()} dispatches .* SQLite takes one"
            with pytest.raises(DispatcherAlreadyRunning, match=expected), other.sole_dispatcher():
                pass
        else:
            with other.sole_dispatcher():
                pass
    with other.sole_dispatcher():
        pass
    other.close()
