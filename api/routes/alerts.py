"""Alerts: what a person is notified of, and the log of the deliveries."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api import problems
from api.delivery_views import DeliveryList, DeliveryView
from api.dependencies import Caller, Now, ReadSession, ServicesDep, WriteSession, authorize
from service.errors import Forbidden, NotFound, UrlNotAllowed
from service.notifications import alerts, deliveries
from service.specs.alert_spec import AlertSpec
from service.states import Role

router = APIRouter(prefix="/v1/alerts", tags=["alerts"], dependencies=[Depends(authorize)])


class AlertView(AlertSpec):
    id: str
    user: str
    created_at: datetime


class NewAlertView(AlertView):
    secret: Annotated[
        str,
        Field(description="signs the calls of a webhook; not shown again; empty for the others"),
    ]


class AlertList(BaseModel):
    alerts: list[AlertView]


@router.post("", status_code=HTTPStatus.CREATED, responses=problems.responses(UrlNotAllowed))
def add_alert(
    spec: AlertSpec, session: WriteSession, services: ServicesDep, now: Now, caller: Caller
) -> NewAlertView:
    """Adds an alert about the caller's jobs, quotas and place in the queue."""
    if spec.all_jobs and caller.role is not Role.ADMIN:
        raise Forbidden("only an admin is notified of the jobs of all; leave out all_jobs")
    settings = services.settings
    alerts.check_target(
        spec,
        allowed=settings.webhook_networks,
        sends_mail=settings.smtp_url is not None,
        mail_domains=settings.mail_domains,
    )
    row = alerts.add_alert(session, spec, user=caller.user, now=now)
    return NewAlertView.model_validate(row)


@router.get("")
def list_alerts(session: ReadSession) -> AlertList:
    """The caller's alerts, of admins those of all, without their secrets."""
    found = alerts.list_alerts(session)
    return AlertList(alerts=[AlertView.model_validate(row) for row in found])


@router.delete(
    "/{alert_id}", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound)
)
def delete_alert(alert_id: str, session: WriteSession) -> None:
    """Deletes an alert and the log of its deliveries."""
    alerts.delete_alert(session, alert_id)


@router.post(
    "/{alert_id}/test", status_code=HTTPStatus.ACCEPTED, responses=problems.responses(NotFound)
)
def test_alert(alert_id: str, session: WriteSession, now: Now) -> DeliveryView:
    """Sends a test delivery."""
    return DeliveryView.model_validate(alerts.enqueue_test(session, alert_id, now=now))


@router.get("/{alert_id}/deliveries", responses=problems.responses(NotFound))
def list_deliveries(
    alert_id: str, session: ReadSession, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> DeliveryList:
    """Deliveries of the alert, newest first."""
    alert = alerts.find_alert(session, alert_id)
    found = deliveries.list_deliveries(session, alert, limit=limit)
    return DeliveryList(deliveries=[DeliveryView.model_validate(row) for row in found])
