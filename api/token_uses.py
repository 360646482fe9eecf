"""The times at which tokens were last used, written beside the requests and not by them."""

import threading
from datetime import datetime

from service.access import tokens
from service.storage.database import Database
from service.supervision import start_supervised


class TokenUses:
    """Writes the use of a token at most once a minute, in a thread of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._used_at: dict[str, datetime] = {}
        self._has_new = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = start_supervised(self._write, name="token-uses", stopping=self._stopping)

    def close(self) -> None:
        self._stopping.set()
        self._has_new.set()
        if self._thread is not None:
            self._thread.join()

    def record(self, token_id: str, *, last: datetime | None, now: datetime) -> None:
        """`last`: as the database has it."""
        if last is not None and (now - last).total_seconds() < tokens.USE_SECONDS:
            return
        with self._lock:
            self._used_at[token_id] = now
        self._has_new.set()

    def _write(self) -> None:
        self._has_new.wait()
        self._has_new.clear()
        with self._lock:
            used_at, self._used_at = self._used_at, {}
        if used_at:
            with self._database.transaction() as session:
                tokens.record_use(session, used_at)
