"""Failed sign-ins and wrong tokens in the audit log: of each at most one entry a minute."""

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
_SUBJECTS = {AuditKind.SIGN_IN_FAILED: "sign-in", AuditKind.TOKEN_REFUSED: "token"}


class RefusedCredentials(BackgroundWriter):
    """Writes what requests count."""

    def __init__(self, database: Database, *, now: Callable[[], datetime]) -> None:
        super().__init__("refused-credentials")
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._counts: dict[AuditKind, Counter[str]] = {}

    def record(self, kind: AuditKind, address: str) -> None:
        with self._lock:
            counts = self._counts.setdefault(kind, Counter())
            # An attacker has more addresses than this process has memory.
            known = address in counts or len(counts) < _MAX_ADDRESSES
            counts[address if known else "others"] += 1
        self._has_new.set()

    def write(self) -> None:
        with self._lock:
            found, self._counts = self._counts, {}
        if found:
            with self._database.transaction() as session:
                for kind, counts in found.items():
                    audit.record(
                        session,
                        kind,
                        _SUBJECTS[kind],
                        now=self._now(),
                        count=counts.total(),
                        addresses=dict(counts),
                    )
        self._stopping.wait(INTERVAL_SECONDS)
