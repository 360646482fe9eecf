"""Webhooks: who is told of jobs' new states."""

from collections.abc import Sequence
from urllib.parse import quote

from resnetd.answers import read, read_list
from resnetd.models import Delivery, Webhook
from resnetd.transport import Transport

_PATH = "/v1/webhooks"


class Webhooks:
    """The part of the client that keeps webhooks."""

    _transport: Transport

    def add_webhook(self, url: str, *, states: str | Sequence[str] = ()) -> Webhook:
        """Its `secret` signs the deliveries and is not shown again. No states: all final ones."""
        wanted = [states] if isinstance(states, str) else list(states)
        return read(Webhook, self._transport.post(_PATH, {"url": url, "states": wanted}))

    def webhooks(self) -> list[Webhook]:
        return read_list(Webhook, "webhooks", self._transport.get(_PATH))

    def delete_webhook(self, webhook_id: str) -> None:
        """With the log of its deliveries."""
        self._transport.delete(_path(webhook_id))

    def ping_webhook(self, webhook_id: str) -> Delivery:
        """Has a delivery sent that tells nothing, to see whether it arrives."""
        return read(Delivery, self._transport.post(_path(webhook_id, "ping")))

    def deliveries(self, webhook_id: str, *, limit: int = 50) -> list[Delivery]:
        """Newest first."""
        answer = self._transport.get(_path(webhook_id, "deliveries"), {"limit": limit})
        return read_list(Delivery, "deliveries", answer)


def _path(webhook_id: str, *steps: str) -> str:
    return "/".join([_PATH, quote(webhook_id, safe=""), *steps])
