"""`client.webhooks`: URLs that are notified of job state changes."""

from collections.abc import Sequence

from resnetd.models import Delivery, Webhook
from resnetd.resources import Resource, as_list


class Webhooks(Resource):
    """Webhooks and their deliveries."""

    PATH = "/v1/webhooks"

    def create(self, url: str, *, states: str | Sequence[str] = ()) -> Webhook:
        """Add a webhook. Its `secret` signs the deliveries and is not shown again.

        The request is not repeated: a second one would add a second webhook.

        Args:
            url: receives a signed POST for each state change.
            states: the new states to notify of. Default: all final states.

        >>> client.webhooks.create("https://203.0.114.5/hook", states="failed").states
        (<JobState.FAILED: 'failed'>,)

        Raises:
            InvalidInput: the URL is not one that the service may call.
        """
        body = {"url": url, "states": as_list(states)}
        return self._api.post_once(self.PATH, Webhook, body)

    def list(self) -> tuple[Webhook, ...]:
        """Return all webhooks, without their secrets.

        >>> [found.id == webhook.id for found in client.webhooks.list()]
        [True]
        """
        return self._api.get_list(self.PATH, "webhooks", Webhook)

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook with the log of its deliveries.

        >>> client.webhooks.delete(webhook.id)
        """
        self._api.delete(self._path(webhook_id))

    def ping(self, webhook_id: str) -> Delivery:
        """Send a test delivery. The request is not repeated.

        >>> client.webhooks.ping(webhook.id).payload["type"]
        'ping'
        """
        return self._api.post_once(self._path(webhook_id, "ping"), Delivery)

    def deliveries(self, webhook_id: str, *, limit: int = 50) -> tuple[Delivery, ...]:
        """Return the deliveries of a webhook, newest first.

        Args:
            limit: at most this number of deliveries. Default: 50.

        >>> client.webhooks.deliveries(webhook.id)
        ()
        """
        path = self._path(webhook_id, "deliveries")
        return self._api.get_list(path, "deliveries", Delivery, {"limit": limit})
