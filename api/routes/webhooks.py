"""Webhooks: who is told of jobs' new states, and what was delivered."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.dependencies import Now, ReadSession, ServicesDep, User, WriteSession, authenticate_user
from service.notifications import url_guard, webhooks
from service.states import DeliveryState, JobState

router = APIRouter(
    prefix="/v1/webhooks", tags=["webhooks"], dependencies=[Depends(authenticate_user)]
)


class WebhookSpec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=2000, pattern=r"^[\x21-\x7e]+$")]
    states: Annotated[
        list[JobState], Field(description="of which it is told; none: all final ones")
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


class DeliveryView(BaseModel):
    """`status`: of the last answer; `error`: why there was none."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    payload: dict[str, Any]
    state: DeliveryState
    tries: int
    next_try_at: datetime
    status: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None


class DeliveryList(BaseModel):
    deliveries: list[DeliveryView]


@router.post("", status_code=HTTPStatus.CREATED)
def add(
    wanted: WebhookSpec, session: WriteSession, held: ServicesDep, now: Now, user: User
) -> NewWebhookView:
    """Deliveries are signed as Standard Webhooks has it, with the secret of this answer."""
    url_guard.parse_url(wanted.url, allowed=held.settings.webhook_networks)
    row = webhooks.add_webhook(session, wanted.url, wanted.states, user=user, now=now)
    return NewWebhookView.model_validate(row)


@router.get("")
def list_webhooks(session: ReadSession) -> WebhookList:
    """Without their secrets."""
    found = webhooks.list_webhooks(session)
    return WebhookList(webhooks=[WebhookView.model_validate(row) for row in found])


@router.delete("/{webhook_id}", status_code=HTTPStatus.NO_CONTENT)
def delete(webhook_id: str, session: WriteSession) -> None:
    """With the log of its deliveries."""
    webhooks.delete_webhook(session, webhook_id)


@router.post("/{webhook_id}/ping", status_code=HTTPStatus.ACCEPTED)
def ping(webhook_id: str, session: WriteSession, now: Now) -> DeliveryView:
    """Sends a delivery that tells nothing, to see whether it arrives."""
    return DeliveryView.model_validate(webhooks.enqueue_ping(session, webhook_id, now=now))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str, session: ReadSession, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> DeliveryList:
    """Newest first."""
    found = webhooks.list_deliveries(session, webhook_id, limit=limit)
    return DeliveryList(deliveries=[DeliveryView.model_validate(row) for row in found])
