"""Webhooks for job state changes, and the log of their deliveries."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api import problems
from api.delivery_views import DeliveryList, DeliveryView
from api.dependencies import Now, ReadSession, ServicesDep, User, WriteSession, authorize
from service.errors import NotFound, UrlNotAllowed
from service.notifications import deliveries, url_guard, webhooks
from service.states import JobState

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], dependencies=[Depends(authorize)])


class WebhookSpec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Annotated[
        str,
        Field(
            max_length=2000, pattern=r"^[\x21-\x7e]+$", examples=["https://example.org/training"]
        ),
    ]
    states: Annotated[
        list[JobState], Field(description="states to report; empty: all final states")
    ] = []


class WebhookView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    url: str
    states: list[JobState]
    user: str
    created_at: datetime


class NewWebhookView(WebhookView):
    secret: Annotated[str, Field(description="signs the deliveries; it is not shown again")]


class WebhookList(BaseModel):
    webhooks: list[WebhookView]


@router.post("", status_code=HTTPStatus.CREATED, responses=problems.responses(UrlNotAllowed))
def add_webhook(
    spec: WebhookSpec, session: WriteSession, services: ServicesDep, now: Now, user: User
) -> NewWebhookView:
    """Adds a webhook. Deliveries are signed as in Standard Webhooks, with the returned secret."""
    url_guard.parse_url(spec.url, allowed=services.settings.webhook_networks)
    row = webhooks.add_webhook(session, spec.url, spec.states, user=user, now=now)
    return NewWebhookView.model_validate(row)


@router.get("")
def list_webhooks(session: ReadSession) -> WebhookList:
    """All webhooks, without their secrets."""
    found = webhooks.list_webhooks(session)
    return WebhookList(webhooks=[WebhookView.model_validate(row) for row in found])


@router.delete(
    "/{webhook_id}", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound)
)
def delete_webhook(webhook_id: str, session: WriteSession) -> None:
    """Deletes a webhook and the log of its deliveries."""
    webhooks.delete_webhook(session, webhook_id)


@router.post(
    "/{webhook_id}/ping", status_code=HTTPStatus.ACCEPTED, responses=problems.responses(NotFound)
)
def ping_webhook(webhook_id: str, session: WriteSession, now: Now) -> DeliveryView:
    """Sends a test delivery."""
    return DeliveryView.model_validate(webhooks.enqueue_ping(session, webhook_id, now=now))


@router.get("/{webhook_id}/deliveries", responses=problems.responses(NotFound))
def list_deliveries(
    webhook_id: str, session: ReadSession, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> DeliveryList:
    """Deliveries of the webhook, newest first."""
    webhook = webhooks.find_webhook(session, webhook_id)
    found = deliveries.list_deliveries(session, webhook, limit=limit)
    return DeliveryList(deliveries=[DeliveryView.model_validate(row) for row in found])
