"""The one clock of the service: that of the database's host."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from service.storage.database import Database

_INTERVAL_SECONDS = 10.0


class DatabaseClock:
    """The time of the database, UTC: processes on hosts whose clocks differ agree on it.

    SQLite has the clock of its host, on which all processes run.
    """

    def __init__(
        self, database: Database, *, local: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`local`: the clock of this host, UTC."""
        self._database = database
        self._local = local
        self._offset = timedelta()
        self.synchronize()

    def __call__(self) -> datetime:
        return self._local() + self._offset

    @property
    def offset(self) -> timedelta:
        """The database's clock minus this host's."""
        return self._offset

    def follow(self, stopping: threading.Event) -> None:
        """Waits ten seconds and synchronizes: the step of a supervised thread."""
        if not stopping.wait(_INTERVAL_SECONDS):
            self.synchronize()

    def synchronize(self) -> None:
        """Measures how far the local clock is off. DatabaseUnavailable."""
        if self._database.is_sqlite:
            return
        with self._database.reading() as session:
            before = self._local()
            theirs: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            ours = before + (self._local() - before) / 2
        self._offset = theirs - ours
