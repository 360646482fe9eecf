"""`client.alerts`: what people are notified of, by webhook, e-mail, Slack or Discord."""

from collections.abc import Sequence

from resnetd.models import Alert, AlertChannel, AlertCondition, Delivery
from resnetd.resources import Resource, as_list


class Alerts(Resource):
    """The caller's alerts and their deliveries."""

    PATH = "/v1/alerts"

    def create(
        self,
        channel: str | AlertChannel,
        target: str,
        *,
        conditions: str | Sequence[str | AlertCondition],
        tags: str | Sequence[str] = (),
        all_jobs: bool = False,
        minutes: int = 5,
        evaluations: int = 10,
    ) -> Alert:
        """Add an alert. The request is not repeated: a second one would add a second alert.

        Args:
            channel: `webhook`, `email`, `slack` or `discord`.
            target: the URL of the webhook, also of Slack or Discord; or an e-mail address.
            conditions: what to report, of `AlertCondition`.
            tags: only jobs with one of these tags. Default: all.
            all_jobs: of an admin, the jobs of all people. Default: the caller's.
            minutes: for which a job is silent, or the queue stuck. Default: 5.
            evaluations: without a lower error, which are a plateau. Default: 10.

        >>> client.alerts.create("slack", "https://203.0.114.5/x", conditions="failed").conditions
        (<AlertCondition.FAILED: 'failed'>,)

        Raises:
            InvalidInput: the target is not one that the service may call, or it sends no e-mail.
        """
        body = {
            "channel": str(channel),
            "target": target,
            "conditions": [str(condition) for condition in as_list(conditions)],
            "tags": as_list(tags),
            "all_jobs": all_jobs,
            "minutes": minutes,
            "evaluations": evaluations,
        }
        return self._api.post_once(self.PATH, Alert, body)

    def list(self) -> tuple[Alert, ...]:
        """Return all alerts, without their secrets.

        >>> [found.id == alert.id for found in client.alerts.list()]
        [True]
        """
        return self._api.get_list(self.PATH, "alerts", Alert)

    def delete(self, alert_id: str) -> None:
        """Delete an alert with the log of its deliveries.

        >>> client.alerts.delete(alert.id)
        """
        self._api.delete(self._path(alert_id))

    def test(self, alert_id: str) -> Delivery:
        """Send a test delivery. The request is not repeated.

        >>> client.alerts.test(alert.id).payload["type"]
        'alert.test'
        """
        return self._api.post_once(self._path(alert_id, "test"), Delivery)

    def log(self, alert_id: str, *, limit: int = 50) -> tuple[Delivery, ...]:
        """Return the deliveries of an alert, newest first.

        Args:
            limit: at most this number of deliveries. Default: 50.

        >>> client.alerts.log(alert.id)
        ()
        """
        path = self._path(alert_id, "deliveries")
        return self._api.get_list(path, "deliveries", Delivery, {"limit": limit})
