"""Wakes the waiting requests of this process after a commit, of any process, that concerns them."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress

from service.errors import Unavailable
from service.storage.changes import ANYTHING, ChangeKind
from service.storage.database import Database
from service.supervision import start_supervised

LISTEN_SECONDS = 1.0


class Subscription:
    """The changes that one request waits for, by the ids of what it is about.

    ANYTHING as an id: it waits for every change.
    """

    def __init__(self) -> None:
        self.subject_ids: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    def clear(self) -> None:
        """Forgets the changes so far. Call it before the database is read."""
        self._changed.clear()

    async def wait(self, seconds: float) -> bool:
        """Waits for a change since the last `clear`. False after `seconds` without one."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True


class ChangeHub:
    """One thread listens to the database for all requests; its methods belong to their loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Call it on the event loop that serves requests."""
        self._loop = asyncio.get_running_loop()
        self._thread = start_supervised(self._listen, name="changes", stopping=self._closing)

    @property
    def is_closing(self) -> bool:
        """Streams and long polls end, since the process stops; clients find another one."""
        return self._closing.is_set()

    def require_open(self) -> None:
        """Raises Unavailable where the process stops."""
        if self.is_closing:
            raise Unavailable("this API process stops")

    def end_waits(self) -> None:
        self._closing.set()
        self._wake({ANYTHING})

    def close(self) -> None:
        self.end_waits()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def subscribe(self, *subject_ids: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self.follow(subscription, subject_ids)
        try:
            yield subscription
        finally:
            self.follow(subscription, ())

    def follow(self, subscription: Subscription, subject_ids: Iterable[str]) -> None:
        """Replaces what the subscription is about.

        A new subject wakes it: what is known about that was read before its changes were heard.
        """
        followed = frozenset(subject_ids)
        for subject_id in subscription.subject_ids - followed:
            self._subscriptions[subject_id].discard(subscription)
            if not self._subscriptions[subject_id]:
                del self._subscriptions[subject_id]
        added = followed - subscription.subject_ids
        for subject_id in added:
            self._subscriptions[subject_id].add(subscription)
        subscription.subject_ids = followed
        if added:
            subscription.wake()

    def _listen(self) -> None:
        assert self._loop is not None
        with closing(self._database.listen(ChangeKind.STATE, ChangeKind.PROGRESS)) as changes:
            # Changes while no listener was open were missed.
            self._loop.call_soon_threadsafe(self._wake, {ANYTHING})
            while not self._closing.is_set():
                changed = changes.wait(LISTEN_SECONDS)
                if changed:
                    # The loop may be closed by now, and with it all requests.
                    with suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._wake, changed)

    def _wake(self, changed: Iterable[str]) -> None:
        ids = self._subscriptions.keys() if ANYTHING in changed else (*changed, ANYTHING)
        for subject_id in tuple(ids):
            for subscription in self._subscriptions.get(subject_id, ()):
                subscription.wake()
