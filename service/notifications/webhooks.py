"""Webhooks: calls of a URL when jobs change state, and the log of these deliveries.

A delivery is enqueued in the transaction of the state change and sent at least once. It is signed
as in Standard Webhooks: HMAC-SHA256 over id, timestamp and body.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import NotFound
from service.states import FINAL_STATES, DeliveryState, JobState, Role
from service.storage import changes
from service.storage.changes import ChangeKind
from service.storage.tables import DeliveryRow, JobRow, PersonRow, WebhookRow

# The delay doubles from 10 s on: the last try is about 85 minutes after the first.
MAX_TRIES = 10
_FIRST_DELAY_SECONDS = 10.0
# If a sender dies, another one sends its delivery after this time.
_CLAIM_SECONDS = 60.0
_LOG_DAYS = 30
_SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix


def add_webhook(
    session: Session, url: str, states: Sequence[JobState], *, user: str, now: datetime
) -> WebhookRow:
    """Adds a webhook; `states` defaults to all final states. The caller checks the URL."""
    row = WebhookRow(
        id=ids.new_id(now),
        url=url,
        secret=_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode(),
        states=sorted(states or FINAL_STATES),
        user=user,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def list_webhooks(session: Session) -> list[WebhookRow]:
    return list(session.scalars(select(WebhookRow).order_by(WebhookRow.id)))


def find_webhook(session: Session, webhook_id: str) -> WebhookRow:
    row = session.get(WebhookRow, webhook_id) if ids.is_id(webhook_id) else None
    if row is None:
        raise NotFound(f"no webhook {webhook_id!r}")
    return row


def delete_webhook(session: Session, webhook_id: str) -> None:
    """Deletes the webhook and its deliveries."""
    session.execute(
        delete_rows(WebhookRow).where(WebhookRow.id == find_webhook(session, webhook_id).id)
    )


def list_deliveries(session: Session, webhook_id: str, *, limit: int) -> list[DeliveryRow]:
    """The deliveries of a webhook, newest first."""
    statement = (
        select(DeliveryRow)
        .where(DeliveryRow.webhook_id == find_webhook(session, webhook_id).id)
        .order_by(DeliveryRow.id.desc())
        .limit(limit)
    )
    return list(session.scalars(statement))


def enqueue_deliveries(session: Session, job: JobRow, *, now: datetime) -> None:
    """Enqueues a delivery for each webhook that subscribes to the job's new state.

    Webhooks of its user, and those of admins, which report the jobs of all.
    """
    admins = select(PersonRow.name).where(PersonRow.role == Role.ADMIN)
    concerned = select(WebhookRow).where(
        or_(WebhookRow.user == job.user, WebhookRow.user.in_(admins))
    )
    for webhook in session.scalars(concerned):
        if job.state in webhook.states:
            payload = {
                "type": f"job.{job.state}",
                "timestamp": now.isoformat(),
                "data": {
                    "id": job.id,
                    "name": job.name,
                    "kind": job.kind,
                    "user": job.user,
                    "state": job.state,
                    "reason": job.reason,
                    "message": job.message,
                    "result": job.result,
                },
            }
            _enqueue(session, webhook, payload, now=now)


def enqueue_ping(session: Session, webhook_id: str, *, now: datetime) -> DeliveryRow:
    """Enqueues a test delivery."""
    payload = {"type": "ping", "timestamp": now.isoformat(), "data": {}}
    return _enqueue(session, find_webhook(session, webhook_id), payload, now=now)


@dataclass(frozen=True)
class SignedDelivery:
    """A signed HTTP request of a webhook."""

    delivery_id: str
    url: str
    headers: dict[str, str]
    body: bytes


def claim_due_delivery(session: Session, *, now: datetime) -> SignedDelivery | None:
    """Claims the delivery that is due first, for one minute; None if no delivery is due."""
    due = session.execute(
        select(DeliveryRow, WebhookRow)
        .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        .where(DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.next_try_at <= now)
        .order_by(DeliveryRow.next_try_at, DeliveryRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=DeliveryRow)
    ).first()
    if due is None:
        return None
    delivery, webhook = due
    if delivery.tries >= MAX_TRIES:
        # Its last sender died.
        delivery.state = DeliveryState.FAILED
        return None
    delivery.tries += 1
    delivery.next_try_at = now + timedelta(seconds=_CLAIM_SECONDS)
    body = json.dumps(delivery.payload, separators=(",", ":")).encode()
    return SignedDelivery(
        delivery_id=delivery.id,
        url=webhook.url,
        headers=sign(webhook.secret, delivery.id, body, now=now),
        body=body,
    )


def record_outcome(
    session: Session, delivery_id: str, *, status: int | None, error: str | None, now: datetime
) -> None:
    """Records the response's `status`, or the `error` that prevented a response.

    2xx means delivered, 410 (Gone) means failed; otherwise the delivery is retried.
    """
    delivery = session.get(DeliveryRow, delivery_id, with_for_update=True)
    if delivery is None:  # the webhook has been deleted
        return
    delivery.status = status
    delivery.error = error
    if status is not None and 200 <= status < 300:  # noqa: PLR2004 - HTTP status codes
        delivery.state = DeliveryState.DELIVERED
        delivery.delivered_at = now
    elif status == 410 or delivery.tries >= MAX_TRIES:  # noqa: PLR2004
        delivery.state = DeliveryState.FAILED
    else:
        delay = _FIRST_DELAY_SECONDS * 2.0 ** (delivery.tries - 1)
        delivery.next_try_at = now + timedelta(seconds=delay)


def find_next_due_time(session: Session) -> datetime | None:
    """When the next delivery is due; None if none is pending."""
    return session.scalar(
        select(func.min(DeliveryRow.next_try_at)).where(DeliveryRow.state == DeliveryState.PENDING)
    )


def delete_old_deliveries(session: Session, *, now: datetime) -> None:
    """Deletes completed deliveries after 30 days."""
    session.execute(
        delete_rows(DeliveryRow).where(
            DeliveryRow.state != DeliveryState.PENDING,
            DeliveryRow.created_at < now - timedelta(days=_LOG_DAYS),
        )
    )


def sign(secret: str, delivery_id: str, body: bytes, *, now: datetime) -> dict[str, str]:
    """Headers with which a receiver verifies the sender and the time."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    timestamp = str(int(now.timestamp()))
    signed = b".".join((delivery_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def _enqueue(
    session: Session, webhook: WebhookRow, payload: dict[str, Any], *, now: datetime
) -> DeliveryRow:
    row = DeliveryRow(
        id=ids.new_id(now),
        webhook_id=webhook.id,
        payload=payload,
        state=DeliveryState.PENDING,
        tries=0,
        next_try_at=now,
        created_at=now,
    )
    session.add(row)
    changes.notify(session, row.id, ChangeKind.DELIVERY)
    return row
