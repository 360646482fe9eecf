"""The courier: sends webhooks' deliveries beside the dispatcher, each to an address it has checked.

The name is resolved once, the address checked, and the connection made to that very address: a
name server that answers differently the second time leads nowhere. Redirects are not followed.
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
from service.storage.database import Database

log = structlog.get_logger()

_TIMEOUT_SECONDS = 10.0
# A delivery is written with a commit that wakes; the poll is for those that are tried again.
_POLL_SECONDS = 1.0


class WebhookSender:
    """`now` is the clock, UTC; `allowed` are private networks that may be called all the same."""

    def __init__(
        self, database: Database, *, allowed: Sequence[Network], now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._allowed = allowed
        self._now = now
        # No environment: a proxy would connect to wherever it likes.
        self._http = httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False, follow_redirects=False)

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping` is set; a database that is away is waited for."""
        changes = self._database.changes()
        try:
            while not stopping.is_set():
                try:
                    if not self.round():
                        changes.wait(_POLL_SECONDS)
                except DatabaseUnavailable as error:
                    log.warning("webhooks wait for the database", error=str(error))
                    stopping.wait(_POLL_SECONDS)
                except Exception:
                    # One bad delivery must not stop the others; it is tried again and given up.
                    log.exception("webhooks failed")
                    stopping.wait(_POLL_SECONDS)
        finally:
            changes.close()
            self._http.close()

    def round(self) -> bool:
        """Sends the delivery that is due first; False where none is."""
        if not self._is_any_due():
            return False
        with self._database.transaction() as session:
            letter = webhooks.take_due(session, now=self._now())
        if letter is None:
            return False
        status, error = self._send(letter)
        with self._database.transaction() as session:
            webhooks.record_outcome(
                session, letter.delivery_id, status=status, error=error, now=self._now()
            )
        return True

    def _is_any_due(self) -> bool:
        """A look takes no write lock, unlike `take_due` on SQLite."""
        with self._database.reading() as session:
            due = webhooks.find_next_due(session)
        return due is not None and due <= self._now()

    def _send(self, letter: SignedDelivery) -> tuple[int | None, str | None]:
        """The answer's status, or why there was none."""
        try:
            _, host, port = url_guard.parse_url(letter.url, allowed=self._allowed)
            address = url_guard.resolve(host, port, allowed=self._allowed)
            url = httpx.URL(letter.url)
            # The answer's body is of no interest, and may be without end.
            with self._http.stream(
                "POST",
                url.copy_with(host=str(address)),
                headers=letter.headers | {"Host": url.netloc.decode()},
                content=letter.body,
                # The certificate is the name's, not the address's.
                extensions={"sni_hostname": host},
            ) as answer:
                return answer.status_code, None
        except (InvalidInput, UrlNotAllowed) as error:
            return None, str(error)
        except (httpx.HTTPError, OSError) as error:
            return None, f"{type(error).__name__}: {error}"[:500]
