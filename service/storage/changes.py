"""The change signal: a commit wakes the threads, of any process, that listen for changes."""

import time
from enum import StrEnum
from typing import Any, Protocol

import psycopg
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from service.errors import DatabaseUnavailable

_PENDING = "changes"
# PRAGMA user_version is a signed integer of 32 bits.
_MAX_USER_VERSION = 2**31


class ChangeKind(StrEnum):
    """What a commit changed; the values are PostgreSQL's notification channels."""

    STATE = "resnetd_state"  # something that a dispatcher may act on
    PROGRESS = "resnetd_progress"  # metrics, logs and checkpoints of a running attempt


def notify(session: Session, kind: ChangeKind = ChangeKind.STATE) -> None:
    """Wakes the listeners when the session's transaction commits."""
    session.info.setdefault(_PENDING, set()).add(kind)


def publish(session: Session) -> None:
    """Makes the notifications of the session part of its transaction, right before the commit."""
    kinds: set[ChangeKind] = session.info.get(_PENDING, set())
    if not kinds:
        return
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        for kind in kinds:
            session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": kind})
    elif ChangeKind.STATE in kinds:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        connection.exec_driver_sql(f"PRAGMA user_version = {(version + 1) % _MAX_USER_VERSION}")


class ChangeListener(Protocol):
    def wait(self, seconds: float) -> bool:
        """Waits for a change since the last call. Returns False after `seconds` without one."""

    def close(self) -> None: ...


class SqliteChangeListener:
    """Polls PRAGMA data_version, which every commit by another connection changes.

    A poll takes microseconds. PRAGMA user_version counts the commits that changed a state.
    """

    _interval_seconds = 0.01

    def __init__(self, engine: Engine, *, with_progress: bool) -> None:
        self._connection = engine.raw_connection()
        self._cursor = self._connection.cursor()
        self._with_progress = with_progress
        self._data_version = self._read("data_version")
        self._user_version = self._read("user_version")

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            if self._has_changed():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(self._interval_seconds, max(0.0, deadline - time.monotonic())))

    def close(self) -> None:
        self._connection.close()

    def _has_changed(self) -> bool:
        data_version = self._read("data_version")
        if data_version == self._data_version:
            return False
        self._data_version = data_version
        previous, self._user_version = self._user_version, self._read("user_version")
        return self._with_progress or self._user_version != previous

    def _read(self, pragma: str) -> int:
        # Fetch all rows: an unfinished statement keeps a read transaction open.
        ((version,),) = self._cursor.execute(f"PRAGMA {pragma}").fetchall()
        return int(version)


class PostgresChangeListener:
    """LISTEN on a connection of its own, which is reopened after it was lost."""

    def __init__(self, url: URL, *, with_progress: bool) -> None:
        self._kinds = tuple(ChangeKind) if with_progress else (ChangeKind.STATE,)
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.Connection[Any] | None = None

    def wait(self, seconds: float) -> bool:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._conninfo, autocommit=True)
                for kind in self._kinds:
                    self._connection.execute(f"LISTEN {kind}")
                # Changes while no connection was listening were missed.
                return True
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.OperationalError as error:
            self.close()
            raise DatabaseUnavailable(f"the database does not respond: {error}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
