"""The outbox of webhooks and alerts: deliveries that are sent at least once, and their log.

A delivery is enqueued in the transaction of the change that it reports.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import ids
from service.notifications.messages import HttpMessage, MailMessage, Outcome, make_message
from service.states import DeliveryState
from service.storage import changes
from service.storage.changes import ChangeKind
from service.storage.tables import AlertRow, DeliveryRow, WebhookRow

# The delay doubles from 10 s on: the last try is about 85 minutes after the first.
MAX_TRIES = 10
_FIRST_DELAY_SECONDS = 10.0
# If a sender dies, another one sends its delivery after this time.
_CLAIM_SECONDS = 60.0
_LOG_DAYS = 30


def enqueue(
    session: Session, sender: WebhookRow | AlertRow, payload: dict[str, Any], *, now: datetime
) -> DeliveryRow:
    is_webhook = isinstance(sender, WebhookRow)
    row = DeliveryRow(
        id=ids.new_id(now),
        webhook_id=sender.id if is_webhook else None,
        alert_id=None if is_webhook else sender.id,
        payload=payload,
        state=DeliveryState.PENDING,
        tries=0,
        next_try_at=now,
        created_at=now,
    )
    session.add(row)
    changes.notify(session, row.id, ChangeKind.DELIVERY)
    return row


def list_deliveries(
    session: Session, sender: WebhookRow | AlertRow, *, limit: int
) -> Sequence[DeliveryRow]:
    """Newest first."""
    column = DeliveryRow.webhook_id if isinstance(sender, WebhookRow) else DeliveryRow.alert_id
    statement = (
        select(DeliveryRow).where(column == sender.id).order_by(DeliveryRow.id.desc()).limit(limit)
    )
    return session.scalars(statement).all()


def claim_due_delivery(
    session: Session, *, public_url: str | None, now: datetime
) -> HttpMessage | MailMessage | None:
    """Claims the delivery that is due first, for one minute; None if no delivery is due.

    `public_url`: for links to the dashboard.
    """
    due = session.execute(
        select(DeliveryRow, WebhookRow, AlertRow)
        .outerjoin(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        .outerjoin(AlertRow, AlertRow.id == DeliveryRow.alert_id)
        .where(DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.next_try_at <= now)
        .order_by(DeliveryRow.next_try_at, DeliveryRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=DeliveryRow)
    ).first()
    if due is None:
        return None
    delivery, webhook, alert = due
    if delivery.tries >= MAX_TRIES:
        # Its last sender died.
        delivery.state = DeliveryState.FAILED
        return None
    delivery.tries += 1
    delivery.next_try_at = now + timedelta(seconds=_CLAIM_SECONDS)
    sender = webhook if delivery.alert_id is None else alert
    return make_message(delivery, sender, public_url=public_url, now=now)


def record_outcome(session: Session, delivery_id: str, outcome: Outcome, *, now: datetime) -> None:
    """2xx means delivered; what is not final is retried."""
    delivery = session.get(DeliveryRow, delivery_id, with_for_update=True)
    if delivery is None:  # its webhook or alert has been deleted
        return
    delivery.status = outcome.status
    delivery.error = outcome.error
    if outcome.is_delivered:
        delivery.state = DeliveryState.DELIVERED
        delivery.delivered_at = now
    elif outcome.is_final or delivery.tries >= MAX_TRIES:
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
