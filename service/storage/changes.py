"""The change signal: a commit wakes the threads, of any process, that wait for what it changed."""

import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Protocol

import psycopg
from sqlalchemy import Engine, delete, func, insert, select, text
from sqlalchemy.orm import Session

from service.errors import DatabaseUnavailable
from service.storage.tables import ChangeRow

# In what `ChangeListener.wait` returns: changes were missed, so that anything may have changed.
ANYTHING = "*"

# Between two wake-ups where LISTEN is not possible.
POLL_SECONDS = 1.0

_PENDING = "changes"
# A listener of SQLite that falls further behind than this wakes all of its waiters.
_KEPT_ROWS = 10_000
# A payload of PostgreSQL has less than 8,000 bytes, an id at most 32.
_IDS_PER_PAYLOAD = 200


class ChangeKind(StrEnum):
    """What a commit changed; the values are PostgreSQL's notification channels."""

    STATE = "resnetd_state"  # something that a dispatcher may act on
    PROGRESS = "resnetd_progress"  # metrics and checkpoints of a running attempt
    DELIVERY = "resnetd_delivery"  # a webhook delivery to send


def notify(session: Session, subject_id: str, kind: ChangeKind = ChangeKind.STATE) -> None:
    """Wakes the listeners for a job, search, runner or driver when the transaction commits."""
    session.info.setdefault(_PENDING, {}).setdefault((kind, subject_id))


def publish(session: Session) -> None:
    """Makes the notifications of the session part of its transaction, right before the commit."""
    pending: dict[tuple[ChangeKind, str], None] = session.info.get(_PENDING, {})
    if not pending:
        return
    if session.get_bind().dialect.name == "sqlite":
        rows = [{"kind": kind, "subject_id": subject_id} for kind, subject_id in pending]
        session.execute(insert(ChangeRow), rows)
        oldest = select(func.max(ChangeRow.number) - _KEPT_ROWS).scalar_subquery()
        session.execute(delete(ChangeRow).where(ChangeRow.number < oldest))
        return
    for kind in ChangeKind:
        ids = [subject_id for pending_kind, subject_id in pending if pending_kind is kind]
        for start in range(0, len(ids), _IDS_PER_PAYLOAD):
            payload = ",".join(ids[start : start + _IDS_PER_PAYLOAD])
            parameters = {"channel": kind, "ids": payload}
            session.execute(text("SELECT pg_notify(:channel, :ids)"), parameters)


class ChangeListener(Protocol):
    def wait(self, seconds: float) -> frozenset[str]:
        """Waits for changes since the last call. Returns the ids of what has changed.

        Empty after `seconds` without a change. With ANYTHING where changes were missed.
        """

    def close(self) -> None: ...


class SqliteChangeListener:
    """Polls PRAGMA data_version, which every commit by another connection changes.

    A poll takes microseconds. What changed is in a table.
    """

    _interval_seconds = 0.01

    def __init__(self, engine: Engine, kinds: Iterable[ChangeKind]) -> None:
        self._connection = engine.raw_connection()
        self._cursor = self._connection.cursor()
        self._kinds = frozenset(kinds)
        self._data_version = self._read_data_version()
        ((last,),) = self._fetch("SELECT coalesce(max(number), 0) FROM changes")
        self._last_number = int(last)

    def wait(self, seconds: float) -> frozenset[str]:
        deadline = time.monotonic() + seconds
        while True:
            if changed := self._read_changes():
                return changed
            if time.monotonic() >= deadline:
                return frozenset()
            time.sleep(min(self._interval_seconds, max(0.0, deadline - time.monotonic())))

    def close(self) -> None:
        self._connection.close()

    def _read_changes(self) -> frozenset[str]:
        data_version = self._read_data_version()
        if data_version == self._data_version:
            return frozenset()
        self._data_version = data_version
        rows = self._fetch(
            "SELECT number, kind, subject_id FROM changes WHERE number > ? ORDER BY number",
            self._last_number,
        )
        if not rows:
            return frozenset()
        first, self._last_number, expected = rows[0][0], rows[-1][0], self._last_number + 1
        if first != expected:
            return frozenset({ANYTHING})
        return frozenset(subject_id for _, kind, subject_id in rows if kind in self._kinds)

    def _read_data_version(self) -> int:
        ((version,),) = self._fetch("PRAGMA data_version")
        return int(version)

    def _fetch(self, statement: str, *parameters: int) -> list[tuple[Any, ...]]:
        # All rows: an unfinished statement keeps a read transaction open.
        rows: list[tuple[Any, ...]] = self._cursor.execute(statement, parameters).fetchall()
        return rows


class PostgresChangeListener:
    """LISTEN on a connection of its own, which is reopened after it was lost.

    A pooler like PgBouncer does not forward notifications: behind one, anything may have changed
    every POLL_SECONDS.
    """

    def __init__(self, conninfo: str, kinds: Iterable[ChangeKind]) -> None:
        self._kinds = tuple(kinds)
        self._conninfo = conninfo
        self._connection: psycopg.Connection[Any] | None = None
        self._is_pooled = False

    def wait(self, seconds: float) -> frozenset[str]:
        if self._is_pooled:
            time.sleep(min(seconds, POLL_SECONDS))
            return frozenset({ANYTHING})
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._conninfo, autocommit=True)
                if _is_pooled(self._connection):
                    self._is_pooled = True
                    self.close()
                    return frozenset({ANYTHING})
                for kind in self._kinds:
                    self._connection.execute(f"LISTEN {kind}")
                # Changes while no connection was listening were missed.
                return frozenset({ANYTHING})
            received = self._connection.notifies(timeout=seconds, stop_after=1)
            return frozenset(
                subject_id
                for notification in received
                for subject_id in notification.payload.split(",")
            )
        except psycopg.OperationalError as error:
            self.close()
            raise DatabaseUnavailable(f"the database does not respond: {error}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """A pooler gives its clients another process id than that of the server's process."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row != (connection.info.backend_pid,)
