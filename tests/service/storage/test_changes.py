"""Commits wake listeners of all threads and processes; rollbacks do not."""

import subprocess
import sys
import threading

import pytest
from sqlalchemy import text

from service.errors import DatabaseUnavailable
from service.storage import changes, schema
from service.storage.changes import ChangeKind
from service.storage.database import Database
from service.storage.tables import ClusterRow
from tests.support.core import START
from tests.support.postgres import PostgresServer


def _row() -> ClusterRow:
    return ClusterRow(id=1, cpus=4, gpus=0, seen_at=START)


def test_a_commit_by_another_connection_ends_the_wait(database: Database) -> None:
    listener = database.listen(ChangeKind.STATE)
    listener.wait(0.0)
    woken: list[frozenset[str]] = []
    waiting = threading.Thread(target=lambda: woken.append(listener.wait(30.0)))
    waiting.start()
    with database.transaction() as session:
        session.add(_row())
        changes.notify(session, "x")
    waiting.join()
    listener.close()
    assert woken == [frozenset({"x"})]


def test_a_commit_by_another_process_ends_the_wait(
    database_url: str, own_database: Database
) -> None:
    listener = own_database.listen(ChangeKind.STATE)
    listener.wait(0.0)
    program = (
        "import sys; from service.storage import changes, database; from sqlalchemy import text\n"
        "with database.Database(sys.argv[1]).transaction() as session:\n"
        "    session.execute(text('DELETE FROM people')); changes.notify(session, 'x')\n"
        "    columns, values = 'name, role, created_at', \"'x', 'member', '2026-11-21'\"\n"
        "    session.execute(text(f'INSERT INTO people ({columns}) VALUES ({values})'))\n"
    )
    subprocess.run([sys.executable, "-c", program, database_url], check=True)
    assert listener.wait(30.0)
    listener.close()


def test_without_a_commit_the_wait_times_out(database: Database) -> None:
    listener = database.listen(ChangeKind.STATE)
    listener.wait(0.0)
    assert not listener.wait(0.02)
    listener.close()


def test_a_rolled_back_transaction_wakes_no_listener(database: Database) -> None:
    listener = database.listen(ChangeKind.STATE)
    listener.wait(0.0)
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        session.add(_row())
        changes.notify(session, "x")
        _ = 1 / 0
    assert not listener.wait(0.02)
    listener.close()


def test_a_wait_returns_the_ids_of_all_changes_since_the_last(database: Database) -> None:
    listener = database.listen(ChangeKind.STATE)
    listener.wait(0.0)
    ids = {f"{number:016}" for number in range(600)}
    with database.transaction() as session:
        for subject_id in ids:
            changes.notify(session, subject_id)
            changes.notify(session, subject_id)
    found: set[str] = set()
    while found != ids:
        received = listener.wait(30.0)
        assert received, "some changes were missed"
        found |= received
    listener.close()


def test_a_listener_that_fell_behind_learns_that_changes_were_missed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL keeps the notifications of a connection")
    monkeypatch.setattr(changes, "_KEPT_ROWS", 2)
    listener = database.listen(ChangeKind.STATE)
    for subject_id in "abcde":
        with database.transaction() as session:
            changes.notify(session, subject_id)
    assert listener.wait(30.0) == {changes.ANYTHING}
    with database.transaction() as session:
        changes.notify(session, "f")
    assert listener.wait(30.0) == {"f"}
    listener.close()


def test_progress_wakes_only_the_listeners_that_ask_for_it(database: Database) -> None:
    for_state, for_all = database.listen(ChangeKind.STATE), database.listen(*ChangeKind)
    for listener in (for_state, for_all):
        listener.wait(0.0)
    with database.transaction() as session:
        session.add(_row())
        changes.notify(session, "x", ChangeKind.PROGRESS)
    assert for_all.wait(30.0)
    assert not for_state.wait(0.02)
    with database.transaction() as session:
        changes.notify(session, "x")
    assert for_state.wait(30.0)
    assert for_all.wait(30.0)
    for listener in (for_state, for_all):
        listener.close()


@pytest.mark.db
def test_a_stopped_server_is_unavailable_and_its_restart_wakes_listeners() -> None:
    from tests.support.postgres import postgres_server  # noqa: PLC0415 - starts a server

    with postgres_server() as server:
        _stop_and_start(server)


def _stop_and_start(server: PostgresServer) -> None:
    database = Database(server.new_database())
    schema.upgrade(database)
    listener = database.listen(ChangeKind.STATE)
    listener.wait(0.0)
    server.stop()
    with pytest.raises(DatabaseUnavailable):
        database.check()
    with pytest.raises(DatabaseUnavailable), database.transaction() as session:
        session.execute(text("SELECT 1"))
    with pytest.raises(DatabaseUnavailable):
        listener.wait(5.0)
    server.start()
    database.check()
    assert listener.wait(5.0), "changes during the outage were missed"
    listener.close()
    database.close()
