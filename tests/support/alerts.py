"""Alerts, and what they have reported."""

from typing import Any

from service.notifications import alerts, deliveries
from service.specs.alert_spec import AlertSpec
from service.states import AlertCondition
from tests.support.core import Core


def add_alert(core: Core, *conditions: AlertCondition, user: str = "ann", **fields: Any) -> str:
    written = {"channel": "slack", "target": "https://example.org/x", "conditions": conditions}
    with core.database.transaction() as session:
        spec = AlertSpec.model_validate(written | fields)
        return alerts.add_alert(session, spec, user=user, now=core.clock.now).id


def read_reported(core: Core, alert_id: str) -> list[str]:
    """The conditions of the alert's deliveries, oldest first."""
    with core.database.reading() as session:
        alert = alerts.find_alert(session, alert_id)
        found = deliveries.list_deliveries(session, alert, limit=100)
        return [row.payload["type"].removeprefix("alert.") for row in reversed(found)]
