"""Checks at intervals the conditions of alerts that time decides, also while Ray is down."""

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from service.scheduling import alert_conditions
from service.storage.database import Database
from service.supervision import start_supervised

log = structlog.get_logger()

_INTERVAL_SECONDS = 15.0


class AlertChecker:
    """Several dispatchers may check; one of them reports. `now` is the clock, UTC."""

    def __init__(self, database: Database, *, data_dir: Path, now: Callable[[], datetime]) -> None:
        self._database = database
        self._data_dir = data_dir
        self._now = now

    def start(self, stopping: threading.Event) -> threading.Thread:
        """Checks until `stopping` is set."""
        return start_supervised(lambda: self._check(stopping), name="alerts", stopping=stopping)

    def _check(self, stopping: threading.Event) -> None:
        begun = alert_conditions.check(self._database, data_dir=self._data_dir, now=self._now())
        if begun > 0:
            log.info("conditions of alerts have begun", count=begun)
        stopping.wait(_INTERVAL_SECONDS)
