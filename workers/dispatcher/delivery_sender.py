"""Sends the deliveries of webhooks and alerts: requests to addresses that were checked, e-mails.

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
from typing import TypeVar

import httpx
import structlog

from service.notifications import deliveries, url_guard
from service.notifications.messages import HttpMessage, MailMessage, Outcome
from service.notifications.url_guard import Network
from service.storage.changes import ChangeKind, ChangeListener
from service.storage.database import Database
from service.supervision import run_supervised
from service.text import count_of
from workers.dispatcher.mailer import Mailer

T = TypeVar("T")

log = structlog.get_logger()

# For a complete delivery: the name server, the connection, the request and the response's headers.
DEADLINE_SECONDS = 10.0
# At once: receivers that are slow must not hold up the others.
_MAX_SENDERS = 16
# A new delivery is committed with a notification; the poll serves those that are retried.
_POLL_SECONDS = 1.0
# After SIGTERM. What is not sent by then is sent again by the next process.
_STOP_SECONDS = 2.0


class DeliverySender:
    """`now` is the clock, UTC; `allowed`: private networks that may be called.

    `mailer`: None without an SMTP server. `public_url`: for links to the dashboard.
    """

    def __init__(
        self,
        database: Database,
        *,
        allowed: Sequence[Network],
        now: Callable[[], datetime],
        mailer: Mailer | None = None,
        public_url: str | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._database = database
        self._allowed = allowed
        self._now = now
        self._mailer = mailer
        self._public_url = public_url
        self._deadline_seconds = deadline_seconds
        self._certificates = ssl.create_default_context()
        self._slots = threading.Semaphore(_MAX_SENDERS)
        self._senders: list[threading.Thread] = []

    def run(self, stopping: threading.Event) -> None:
        """Sends until `stopping` is set. Retries while the database is unavailable."""
        changes = self._database.listen(ChangeKind.DELIVERY)
        try:
            run_supervised(
                lambda: self._start_due(changes, stopping), name="deliveries", stopping=stopping
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

    def _claim(self) -> HttpMessage | MailMessage | None:
        with self._database.reading() as session:
            due = deliveries.find_next_due_time(session)
        # Without the write lock that a claim takes on SQLite.
        if due is None or due > self._now():
            return None
        with self._database.transaction() as session:
            return deliveries.claim_due_delivery(
                session, public_url=self._public_url, now=self._now()
            )

    def _run_sender(self, delivery: HttpMessage | MailMessage) -> None:
        try:
            self._send_and_record(delivery)
        except Exception:
            # The database, for example; the delivery is claimed again after a minute.
            log.exception("cannot record delivery", delivery_id=delivery.delivery_id)
        finally:
            self._slots.release()

    def _send_and_record(self, delivery: HttpMessage | MailMessage) -> None:
        outcome = self._send(delivery)
        with self._database.transaction() as session:
            deliveries.record_outcome(session, delivery.delivery_id, outcome, now=self._now())

    def _send(self, delivery: HttpMessage | MailMessage) -> Outcome:
        try:
            if isinstance(delivery, MailMessage):
                return asyncio.run(self._mail(delivery))
            return Outcome(status=asyncio.run(self._post(delivery)))
        except TimeoutError:
            return Outcome(
                error=f"not delivered within {count_of(self._deadline_seconds, 'second')}"
            )
        except Exception as error:  # noqa: BLE001 - libraries raise more than they document
            return Outcome(error=f"{type(error).__name__}: {error}"[:500])

    async def _mail(self, mail: MailMessage) -> Outcome:
        mailer = self._mailer
        if mailer is None:
            return Outcome(error="RESNETD_SMTP_URL is not set at the dispatcher")
        async with asyncio.timeout(self._deadline_seconds):
            return await _run_in_daemon(
                lambda: mailer.send(mail, timeout_seconds=self._deadline_seconds)
            )

    async def _post(self, delivery: HttpMessage) -> int:
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


async def _run_in_daemon(function: Callable[[], T]) -> T:
    """The result of a call that may block for minutes; asyncio would wait for its own threads."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_result(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def set_exception(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        # The loop is closed after the deadline.
        with suppress(RuntimeError):
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - raised where it is awaited
                loop.call_soon_threadsafe(set_exception, error)
            else:
                loop.call_soon_threadsafe(set_result, result)

    threading.Thread(target=run, name="delivery", daemon=True).start()
    return await future
