"""Wakes the waiting requests of this process after a commit of any process."""

import asyncio
import threading
from contextlib import suppress

import structlog

from service.errors import DatabaseUnavailable
from service.storage.database import Database

log = structlog.get_logger()

LISTEN_SECONDS = 1.0


class ChangeHub:
    """One thread listens to the database for all requests; each waits on its own event."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: set[asyncio.Event] = set()
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._listen, name="changes", daemon=True)

    def start(self) -> None:
        """Call it on the event loop that serves requests."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        self._closing.set()
        self._wake()
        self._thread.join()

    def subscribe(self) -> asyncio.Event:
        event = asyncio.Event()
        self._waiting.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        self._waiting.discard(event)

    def _listen(self) -> None:
        assert self._loop is not None
        changes = self._database.listen(with_progress=True)
        while not self._closing.is_set():
            try:
                has_changed = changes.wait(LISTEN_SECONDS)
            except DatabaseUnavailable as error:
                log.warning("cannot listen for changes", error=str(error))
                self._closing.wait(LISTEN_SECONDS)
                continue
            if has_changed:
                # The loop may be closed by now, and with it all requests.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._wake)
        changes.close()

    def _wake(self) -> None:
        for event in tuple(self._waiting):
            event.set()
