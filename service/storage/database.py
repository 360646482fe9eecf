"""The database: SQLite on one machine, PostgreSQL on several; engines and transactions."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.orm import Session as Session  # noqa: PLC0414 - api and workers name it too
from sqlalchemy.pool import QueuePool

from service.errors import DatabaseUnavailable, DispatcherAlreadyRunning, InvalidInput
from service.storage import changes
from service.storage.actors import DISPATCHER, Actor, set_actor
from service.storage.changes import (
    ChangeKind,
    ChangeListener,
    PostgresChangeListener,
    SqliteChangeListener,
)

# Compiled statements that are kept, of 50 KiB each; the API has about 150. By default 500 are kept,
# and half as many more before any is removed.
_COMPILED_STATEMENTS = 200

_EXPECTED_URL = (
    "must look like sqlite:////PATH, postgresql://USER:PASSWORD@HOST/NAME or "
    "postgresql://USER:PASSWORD@HOST1,HOST2/NAME?target_session_attrs=read-write"
)
# Of libpq, for each connection, unless the URL has them. A server that no longer responds is
# noticed after 30 seconds.
CONNECTION_OPTIONS = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    # Without it the driver returns bytes where the database has the encoding SQL_ASCII, as initdb
    # makes it in an environment without a language.
    "client_encoding": "utf8",
}
# Includes the wait for locks. As long as SQLite waits for its write lock.
STATEMENT_TIMEOUT_SECONDS = 30.0
# Of a process; those above the first number are closed after their use.
_MAX_CONNECTIONS = 30
_POOL_SIZE = 10
# Option of a statement that reads thousands of rows of numbers: PostgreSQL sends them as they are,
# not as text. Not of all: the driver cannot decode some types of the catalog so.
MANY_NUMBERS = "resnetd_many_numbers"


class Lock(IntEnum):
    """What only one transaction at a time may do; the values are PostgreSQL's advisory locks."""

    MIGRATE = 0x7265736E01
    CHANGE_PEOPLE = 0x7265736E02
    USE_QUOTA = 0x7265736E03
    CHECK_ALERTS = 0x7265736E04
    RECORD_USAGE = 0x7265736E05
    USE_DATASET = 0x7265736E06
    CHANGE_MODELS = 0x7265736E07


def serialize(connection: Connection, lock: Lock, *, is_shared: bool = False) -> None:
    """Waits until no other transaction has the lock, and takes it until this transaction ends.

    `is_shared`: others may have it, too, who share it. SQLite needs none: a transaction that writes
    excludes all others.
    """
    if connection.dialect.name == "postgresql":
        take = func.pg_advisory_xact_lock_shared if is_shared else func.pg_advisory_xact_lock
        connection.execute(select(take(lock.value)))


@dataclass(frozen=True)
class ConnectionCounts:
    """Connections of a process to its database; a request waits where `limit` are in use."""

    in_use: int
    idle: int
    limit: int


class Database:
    """An engine; its sessions are the only place that commits."""

    def __init__(self, url: str) -> None:
        scheme, separator, _ = url.partition("://")
        backend = scheme.partition("+")[0]
        if not separator or backend not in {"sqlite", "postgresql"}:
            raise InvalidInput(f"RESNETD_DATABASE_URL: {_EXPECTED_URL}")
        self.is_sqlite = backend == "sqlite"
        if self.is_sqlite:
            self.engine = _sqlite_engine(_parse_sqlite_url(url))
        else:
            self._conninfo = _parse_postgres_url(url)
            self.engine = _postgres_engine(self._conninfo)

    @contextmanager
    def transaction(self, *, actor: Actor = DISPATCHER) -> Iterator[Session]:
        """A session that commits at the end, or rolls back on an exception.

        `actor`: who makes its changes.
        On SQLite it takes the write lock at the beginning: upgrading a read lock can fail.
        """
        with self._session(begin="BEGIN IMMEDIATE") as session, session.begin():
            set_actor(session, actor)
            yield session
            session.flush()
            changes.publish(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that reads one consistent snapshot and never commits."""
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
            raise DatabaseUnavailable(f"all database connections are in use: {error}") from error
        except OperationalError as error:
            raise _unavailable("the database does not respond", error) from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise _unavailable("the database connection broke", error) from error

    def listen(self, *kinds: ChangeKind) -> ChangeListener:
        """A new listener for changes of these kinds; for one thread."""
        if self.is_sqlite:
            return SqliteChangeListener(self.engine, kinds)
        return PostgresChangeListener(self._conninfo, kinds)

    @contextmanager
    def lock_dispatcher(self) -> Iterator[None]:
        """Allows one dispatcher at a time on SQLite, and any number on PostgreSQL.

        Raises DispatcherAlreadyRunning. The operating system releases the lock when the process
        ends. It is on a file of its own: closing the database's file would drop SQLite's locks.
        """
        if not self.is_sqlite:
            yield
            return
        path = Path(f"{self.engine.url.database}.dispatcher")
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise DispatcherAlreadyRunning(
                    f"process {file.read().strip()} is already the dispatcher of "
                    f"{self.engine.url.database}; SQLite allows one, PostgreSQL several"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def check(self) -> None:
        """Raises DatabaseUnavailable if a query fails, or if the database is read-only."""
        with self.reading() as session:
            if self.is_sqlite:
                rows = session.execute(text("PRAGMA database_list"))
                # Temporary tables have a row of their own.
                file = next(row.file for row in rows if row.name == "main")
                is_read_only = not os.access(file, os.W_OK, effective_ids=True)
            else:
                is_read_only = session.scalar(text("SHOW transaction_read_only")) == "on"
        if is_read_only:
            # Connections keep what they had when they were opened.
            self.engine.dispose()
            raise DatabaseUnavailable("the database is read-only")

    @property
    def directory(self) -> Path | None:
        """Of SQLite's file; None on PostgreSQL."""
        return Path(str(self.engine.url.database)).parent if self.is_sqlite else None

    def read_size(self, session: Session) -> int:
        """Bytes of the database: of its file, or of its files on the server."""
        statement = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if self.is_sqlite
            else "SELECT pg_database_size(current_database())"
        )
        return int(session.scalar(text(statement)) or 0)

    def count_connections(self) -> ConnectionCounts:
        """Of this process."""
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        in_use = pool.checkedout()
        return ConnectionCounts(in_use=in_use, idle=pool.checkedin(), limit=_MAX_CONNECTIONS)

    def close(self) -> None:
        self.engine.dispose()


def _unavailable(message: str, error: DBAPIError) -> DatabaseUnavailable:
    """With the driver's message, which has several lines."""
    return DatabaseUnavailable(f"{message}: {' '.join(str(error.orig).split())}")


def _parse_sqlite_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidInput(f"RESNETD_DATABASE_URL: {_EXPECTED_URL}") from error
    if parsed.database in (None, "", ":memory:"):
        raise InvalidInput(f"RESNETD_DATABASE_URL: {_EXPECTED_URL}")
    return parsed


def _parse_postgres_url(url: str) -> str:
    """The URL, of one host or several, and CONNECTION_OPTIONS in the format of libpq."""
    try:
        options = conninfo_to_dict(f"postgresql://{url.partition('://')[2]}")
        for port in str(options.get("port", "")).split(","):
            int(port or 0)
    except (psycopg.ProgrammingError, ValueError):
        # Without the cause, whose message may have a part of the password.
        raise InvalidInput(
            f"RESNETD_DATABASE_URL: {_EXPECTED_URL}, with options of libpq; "
            "special characters in the password are percent-encoded"
        ) from None
    return make_conninfo("", **{**CONNECTION_OPTIONS, **options})


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": 30, "check_same_thread": False},
        pool_size=_POOL_SIZE,
        max_overflow=_MAX_CONNECTIONS - _POOL_SIZE,
        # Logged errors must not contain secrets of rows.
        hide_parameters=True,
        query_cache_size=_COMPILED_STATEMENTS,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # We emit BEGIN ourselves: the driver emits it before the first write only.
        connection.isolation_level = None
        cursor = connection.cursor()
        # A commit survives the end of any process. A loss of power may cost the last commits, for
        # which WAL does not wait with NORMAL, and leaves a consistent database without them.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("resnetd_begin", "BEGIN IMMEDIATE"))

    @event.listens_for(engine, "handle_error")
    def replace_read_only_connections(context: ExceptionContext) -> None:
        # They stay read-only after the file has become writable again.
        code = getattr(context.original_exception, "sqlite_errorcode", 0)
        # The low byte is the error, the others are its details.
        if code & 0xFF == sqlite3.SQLITE_READONLY:
            context.is_disconnect = True

    return engine


def _postgres_engine(conninfo: str) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        # Behind PgBouncer the next transaction may be on another connection to the server.
        connect_args=conninfo_to_dict(conninfo) | {"prepare_threshold": None},
        pool_pre_ping=True,
        pool_size=_POOL_SIZE,
        max_overflow=_MAX_CONNECTIONS - _POOL_SIZE,
        pool_timeout=10,
        # As above.
        hide_parameters=True,
        query_cache_size=_COMPILED_STATEMENTS,
    )

    @event.listens_for(engine, "begin")
    def limit_statements(connection: Connection) -> None:
        # Not as an option of the connection, which PgBouncer refuses.
        milliseconds = round(STATEMENT_TIMEOUT_SECONDS * 1000)
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")

    @event.listens_for(engine, "before_cursor_execute")
    def choose_format(*arguments: Any) -> None:
        _connection, cursor, _statement, _parameters, context, _is_many = arguments
        if context.execution_options.get(MANY_NUMBERS):
            cursor.format = psycopg.pq.Format.BINARY

    @event.listens_for(engine, "handle_error")
    def replace_read_only_connections(context: ExceptionContext) -> None:
        # After a failover they lead to a server that is no longer the primary.
        if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
            context.is_disconnect = True

    return engine
