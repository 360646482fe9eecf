"""Failed sign-ins in the audit log: at most one entry a minute, however many there are."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from api.background_writer import BackgroundWriter
from service.access import audit
from service.states import AuditKind
from service.storage.database import Database

INTERVAL_SECONDS = 60.0
# In one entry; the others are counted.
_MAX_ADDRESSES = 10


class FailedSignIns(BackgroundWriter):
    """Writes what requests count."""

    def __init__(self, database: Database, *, now: Callable[[], datetime]) -> None:
        super().__init__("failed-sign-ins")
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def record(self, address: str) -> None:
        with self._lock:
            # An attacker has more addresses than this process has memory.
            known = address in self._counts or len(self._counts) < _MAX_ADDRESSES
            self._counts[address if known else "others"] += 1
        self._has_new.set()

    def write(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if counts:
            with self._database.transaction() as session:
                audit.record(
                    session,
                    AuditKind.SIGN_IN_FAILED,
                    "sign-in",
                    now=self._now(),
                    count=counts.total(),
                    addresses=dict(counts),
                )
        self._stopping.wait(INTERVAL_SECONDS)
