"""The database: SQLite for one machine, PostgreSQL for many; transactions and the change signal."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import psycopg
from sqlalchemy import Engine, create_engine, event, make_url, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.orm import Session as Session  # noqa: PLC0414 - routes name it too

from service.errors import DatabaseUnavailable, DispatcherAlreadyRunning, InvalidInput

_PENDING_CHANGES = "changes"
# PRAGMA user_version is a signed integer of 32 bits.
_MAX_VERSION = 2**31


class ChangeKind(StrEnum):
    """What a commit may tell those who listen; the values are PostgreSQL's channels."""

    STATE = "resnetd_state"  # of anything that a dispatcher could have to do with
    PROGRESS = "resnetd_progress"  # of what runs on as before


class Database:
    """An engine and the only place that commits."""

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(self._url) if self.is_sqlite else _postgres_engine(self._url)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that is committed at the end, or rolled back by an exception.

        On SQLite it takes the write lock at once: a lock that is upgraded later can fail.
        """
        with self._session(begin="BEGIN IMMEDIATE") as session, session.begin():
            yield session
            session.flush()
            self._announce(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for one consistent look; what it writes is not kept."""
        with self._session(begin="BEGIN") as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def _session(self, *, begin: str) -> Iterator[Session]:
        engine = self.engine.execution_options(resnetd_begin=begin)
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except NoFreeConnection as error:
            raise DatabaseUnavailable(f"all connections are busy: {error}") from error
        except OperationalError as error:
            raise DatabaseUnavailable(f"the database does not answer: {error.orig}") from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise DatabaseUnavailable(f"the database went away: {error.orig}") from error

    def _announce(self, session: Session) -> None:
        changes: set[ChangeKind] = session.info.get(_PENDING_CHANGES, set())
        if not self.is_sqlite:
            for change in changes:
                session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": change})
        elif ChangeKind.STATE in changes:
            connection = session.connection()
            states = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.exec_driver_sql(f"PRAGMA user_version = {(states + 1) % _MAX_VERSION}")

    def changes(self, *, with_progress: bool = False) -> "ChangeListener":
        """A new listener; it belongs to one thread. `with_progress`: to every kind of change."""
        if self.is_sqlite:
            return _SqliteChangeListener(self, with_progress=with_progress)
        channels = tuple(ChangeKind) if with_progress else (ChangeKind.STATE,)
        return _PostgresChangeListener(self._url, channels)

    @contextmanager
    def sole_dispatcher(self) -> Iterator[None]:
        """Allows one dispatcher on SQLite: DispatcherAlreadyRunning for a second one.

        The lock is the operating system's: it ends with the process, however that ends. It is on
        a file of its own, for closing the database's file would drop SQLite's own locks.
        """
        if not self.is_sqlite:
            yield
            return
        path = Path(f"{self._url.database}.dispatcher")
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise DispatcherAlreadyRunning(
                    f"process {file.read().strip()} dispatches from {self._url.database} already; "
                    "SQLite takes one dispatcher, PostgreSQL several"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def check(self) -> None:
        """Raises DatabaseUnavailable where no query goes through."""
        with self.reading() as session:
            session.execute(select(1))

    def close(self) -> None:
        self.engine.dispose()


def notify(session: Session, change: ChangeKind = ChangeKind.STATE) -> None:
    """The commit of this transaction shall wake those who listen for such changes."""
    session.info.setdefault(_PENDING_CHANGES, set()).add(change)


class ChangeListener(Protocol):
    """Tells when something that others wait for was committed, by any process."""

    def wait(self, seconds: float) -> bool:
        """Waits for a change since the last call; False when the time is over without one."""

    def close(self) -> None: ...


class _SqliteChangeListener:
    """Polls PRAGMA data_version, which costs microseconds and changes with others' commits.

    PRAGMA user_version counts those that changed a state.
    """

    _interval_seconds = 0.01

    def __init__(self, database: Database, *, with_progress: bool) -> None:
        self._connection = database.engine.raw_connection()
        self._cursor = self._connection.cursor()
        self._with_progress = with_progress
        self._data_version = self._read("data_version")
        self._states = self._read("user_version")

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
        before, self._states = self._states, self._read("user_version")
        return self._with_progress or self._states != before

    def _read(self, pragma: str) -> int:
        # All of the answer is fetched: a statement that is not over holds the database open.
        ((version,),) = self._cursor.execute(f"PRAGMA {pragma}").fetchall()
        return int(version)


class _PostgresChangeListener:
    """LISTEN on an own connection, opened again after it was lost."""

    def __init__(self, url: URL, channels: tuple[ChangeKind, ...]) -> None:
        self._channels = channels
        plain = url.set(drivername="postgresql")
        self._conninfo = plain.render_as_string(hide_password=False)
        self._connection: psycopg.Connection[Any] | None = None

    def wait(self, seconds: float) -> bool:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._conninfo, autocommit=True)
                for channel in self._channels:
                    self._connection.execute(f"LISTEN {channel}")
                # Whatever happened while nobody listened counts as a change.
                return True
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.OperationalError as error:
            self.close()
            raise DatabaseUnavailable(f"the database does not answer: {error}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidInput(
            "the database's URL cannot be read; it begins with sqlite:/// or postgresql://"
        ) from error
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidInput(f"the database is a SQLite file or PostgreSQL, received {backend}")


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # We say BEGIN ourselves; the driver would say it too late and never for reads.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("resnetd_begin", "BEGIN IMMEDIATE"))

    return engine


def _postgres_engine(url: URL) -> Engine:
    return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20, pool_timeout=10)
