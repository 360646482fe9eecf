"""The times at which tokens were last used, written beside the requests and not by them."""

import threading
from datetime import datetime

from api.background_writer import BackgroundWriter
from service.access import tokens
from service.storage.database import Database


class TokenUses(BackgroundWriter):
    """Writes the use of a token at most once a minute."""

    def __init__(self, database: Database) -> None:
        super().__init__("token-uses")
        self._database = database
        self._lock = threading.Lock()
        self._used_at: dict[str, datetime] = {}

    def record(self, token_id: str, *, last: datetime | None, now: datetime) -> None:
        """`last`: as the database has it."""
        if last is not None and (now - last).total_seconds() < tokens.USE_SECONDS:
            return
        with self._lock:
            self._used_at[token_id] = now
        self._has_new.set()

    def write(self) -> None:
        with self._lock:
            used_at, self._used_at = self._used_at, {}
        if used_at:
            with self._database.transaction() as session:
                tokens.record_use(session, used_at)
