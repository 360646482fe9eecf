"""Sends the deliveries of webhooks, each to an address that was checked.

The host name is resolved once, the address checked, and the connection made to that address: a
name server that answers differently the second time cannot redirect it. HTTP redirects are not
followed.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime

import httpx
import structlog

from service.errors import DatabaseUnavailable, InvalidInput, UrlNotAllowed
from service.notifications import url_guard, webhooks
from service.notifications.url_guard import Network
from service.notifications.webhooks import SignedDelivery
from service.storage.changes import ChangeKind
from service.storage.database import Database

log = structlog.get_logger()

_TIMEOUT_SECONDS = 10.0
# A new delivery is committed with a notification; the poll serves those that are retried.
_POLL_SECONDS = 1.0


class WebhookSender:
    """`now` is the clock, UTC; `allowed`: private networks that may be called."""

    def __init__(
        self, database: Database, *, allowed: Sequence[Network], now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._allowed = allowed
        self._now = now
        # Without the environment's proxy, which would resolve the name itself.
        self._http = httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False, follow_redirects=False)

    def run(self, stopping: threading.Event) -> None:
        """Sends until `stopping` is set. Retries while the database is unavailable."""
        changes = self._database.listen(ChangeKind.DELIVERY)
        try:
            while not stopping.is_set():
                try:
                    if not self.send_next():
                        changes.wait(_POLL_SECONDS)
                except DatabaseUnavailable as error:
                    log.warning("database unavailable, retrying", error=str(error))
                    stopping.wait(_POLL_SECONDS)
                except Exception:
                    # One bad delivery must not stop the others; it is retried and given up.
                    log.exception("cannot send webhook delivery")
                    stopping.wait(_POLL_SECONDS)
        finally:
            changes.close()
            self._http.close()

    def send_next(self) -> bool:
        """Sends the delivery that is due first; False where none is due."""
        if not self._is_any_due():
            return False
        with self._database.transaction() as session:
            delivery = webhooks.claim_due_delivery(session, now=self._now())
        if delivery is None:
            return False
        status, error = self._send(delivery)
        with self._database.transaction() as session:
            webhooks.record_outcome(
                session, delivery.delivery_id, status=status, error=error, now=self._now()
            )
        return True

    def _is_any_due(self) -> bool:
        """Without the write lock that `take_due` takes on SQLite."""
        with self._database.reading() as session:
            due = webhooks.find_next_due_time(session)
        return due is not None and due <= self._now()

    def _send(self, delivery: SignedDelivery) -> tuple[int | None, str | None]:
        """The status of the response, or why there was none."""
        try:
            _, host, port = url_guard.parse_url(delivery.url, allowed=self._allowed)
            address = url_guard.resolve(host, port, allowed=self._allowed)
            url = httpx.URL(delivery.url)
            # The body of the response is not read: it may have any length.
            with self._http.stream(
                "POST",
                url.copy_with(host=str(address)),
                headers=delivery.headers | {"Host": url.netloc.decode()},
                content=delivery.body,
                # The certificate is for the name, not for the address.
                extensions={"sni_hostname": host},
            ) as response:
                return response.status_code, None
        except (InvalidInput, UrlNotAllowed) as error:
            return None, str(error)
        except (httpx.HTTPError, OSError) as error:
            return None, f"{type(error).__name__}: {error}"[:500]
