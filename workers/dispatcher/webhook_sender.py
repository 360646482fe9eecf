"""Sends the deliveries of webhooks, each to an address that was checked.

The host name is resolved once, the address checked, and the connection made to that address: a
name server that answers differently the second time cannot redirect it. HTTP redirects are not
followed. Each delivery has a thread and a deadline.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

import httpx
import structlog

from service.notifications import url_guard, webhooks
from service.notifications.url_guard import Address, Network
from service.notifications.webhooks import SignedDelivery
from service.storage.changes import ChangeKind, ChangeListener
from service.storage.database import Database
from service.supervision import run_supervised
from service.text import count_of

log = structlog.get_logger()

# For a complete delivery: the name server, the connection, the request and the response's headers.
DEADLINE_SECONDS = 10.0
# At once: receivers that are slow must not hold up the others.
_MAX_SENDERS = 16
# A new delivery is committed with a notification; the poll serves those that are retried.
_POLL_SECONDS = 1.0
# After SIGTERM. What is not sent by then is sent again by the next process.
_STOP_SECONDS = 2.0


class WebhookSender:
    """`now` is the clock, UTC; `allowed`: private networks that may be called."""

    def __init__(
        self,
        database: Database,
        *,
        allowed: Sequence[Network],
        now: Callable[[], datetime],
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._database = database
        self._allowed = allowed
        self._now = now
        self._deadline_seconds = deadline_seconds
        self._certificates = ssl.create_default_context()
        self._slots = threading.Semaphore(_MAX_SENDERS)
        self._senders: list[threading.Thread] = []

    def run(self, stopping: threading.Event) -> None:
        """Sends until `stopping` is set. Retries while the database is unavailable."""
        changes = self._database.listen(ChangeKind.DELIVERY)
        try:
            run_supervised(
                lambda: self._start_due(changes, stopping), name="webhooks", stopping=stopping
            )
        finally:
            changes.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for sender in self._senders:
            sender.join(max(0.0, deadline - time.monotonic()))

    def send_next(self) -> bool:
        """Sends the delivery that is due first; False where none is due."""
        delivery = self._claim()
        if delivery is None:
            return False
        self._send_and_record(delivery)
        return True

    def _start_due(self, changes: ChangeListener, stopping: threading.Event) -> None:
        """Starts a sender for each delivery that is due, then waits for the next change."""
        while not stopping.is_set() and self._slots.acquire(timeout=_POLL_SECONDS):
            delivery = None
            try:
                delivery = self._claim()
            finally:
                if delivery is None:
                    self._slots.release()
            if delivery is None:
                changes.wait(_POLL_SECONDS)
                return
            # A daemon, so that a slow receiver does not delay the end of the process.
            sender = threading.Thread(target=self._run_sender, args=(delivery,), daemon=True)
            sender.start()
            self._senders = [*(thread for thread in self._senders if thread.is_alive()), sender]

    def _claim(self) -> SignedDelivery | None:
        with self._database.reading() as session:
            due = webhooks.find_next_due_time(session)
        # Without the write lock that a claim takes on SQLite.
        if due is None or due > self._now():
            return None
        with self._database.transaction() as session:
            return webhooks.claim_due_delivery(session, now=self._now())

    def _run_sender(self, delivery: SignedDelivery) -> None:
        try:
            self._send_and_record(delivery)
        except Exception:
            # The database, for example; the delivery is claimed again after a minute.
            log.exception("cannot record webhook delivery", delivery_id=delivery.delivery_id)
        finally:
            self._slots.release()

    def _send_and_record(self, delivery: SignedDelivery) -> None:
        status, error = self._send(delivery)
        with self._database.transaction() as session:
            webhooks.record_outcome(
                session, delivery.delivery_id, status=status, error=error, now=self._now()
            )

    def _send(self, delivery: SignedDelivery) -> tuple[int | None, str | None]:
        """The status of the response, or why there was none."""
        try:
            return asyncio.run(self._post(delivery)), None
        except TimeoutError:
            return None, f"not delivered within {count_of(self._deadline_seconds, 'second')}"
        except Exception as error:  # noqa: BLE001 - libraries raise more than they document
            return None, f"{type(error).__name__}: {error}"[:500]

    async def _post(self, delivery: SignedDelivery) -> int:
        async with asyncio.timeout(self._deadline_seconds):
            _, host, port = url_guard.parse_url(delivery.url, allowed=self._allowed)
            address = await _run_in_daemon(
                lambda: url_guard.resolve(host, port, allowed=self._allowed)
            )
            url = httpx.URL(delivery.url)
            # Without the environment's proxy, which would resolve the name itself.
            async with (
                httpx.AsyncClient(
                    timeout=None,  # noqa: S113 - the deadline above
                    trust_env=False,
                    verify=self._certificates,
                    follow_redirects=False,
                ) as http,
                # The body of the response is not read: it may have any length.
                http.stream(
                    "POST",
                    url.copy_with(host=str(address)),
                    headers=delivery.headers | {"Host": url.netloc.decode()},
                    content=delivery.body,
                    # The certificate is for the name, not for the address.
                    extensions={"sni_hostname": host},
                ) as response,
            ):
                return response.status_code


async def _run_in_daemon(
    resolve: Callable[[], Address],
) -> Address:
    """The result of a call that may block for minutes; asyncio would wait for its own threads."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Address] = loop.create_future()

    def set_result(address: Address | None, error: Exception | None) -> None:
        if future.done():
            return
        if address is not None:
            future.set_result(address)
        else:
            future.set_exception(error or OSError("no address"))

    def run() -> None:
        address, failure = None, None
        try:
            address = resolve()
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            failure = error
        # The loop is closed after the deadline.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(set_result, address, failure)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    return await future
