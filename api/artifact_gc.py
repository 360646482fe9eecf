"""Hourly deletion of artifacts that no checkpoint refers to, and of what killed uploads left."""

import random
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from service.catalog import uploads
from service.jobs import consistency
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.supervision import start_supervised

log = structlog.get_logger()

INTERVAL_SECONDS = 3600.0


class ArtifactCollector:
    """A thread of each API process. Several may run at once: a deletion can be repeated."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        *,
        data_dir: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._data_dir = data_dir
        self._now = now
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = start_supervised(self._run, name="artifact-gc", stopping=self._closing)

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # Shortened by up to a half: replicas that started together do not run together.
        if self._closing.wait(INTERVAL_SECONDS * random.uniform(0.5, 1.0)):  # noqa: S311
            return
        deleted = consistency.delete_orphans(self._database, self._artifacts, now=self._now())
        log.info("artifacts collected", deleted=deleted)
        deleted = uploads.delete_abandoned(self._data_dir, now=self._now())
        log.info("uploads collected", deleted=deleted)
