"""Webhooks: calls of a URL when jobs change state."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete as delete_rows
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import NotFound
from service.notifications import deliveries, messages
from service.notifications.messages import describe_job
from service.states import FINAL_STATES, JobState, Role
from service.storage.tables import DeliveryRow, JobRow, PersonRow, WebhookRow


def add_webhook(
    session: Session, url: str, states: Sequence[JobState], *, user: str, now: datetime
) -> WebhookRow:
    """Adds a webhook; `states` defaults to all final states. The caller checks the URL."""
    row = WebhookRow(
        id=ids.new_id(now),
        url=url,
        secret=messages.make_secret(),
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


def enqueue_deliveries(session: Session, job: JobRow, *, now: datetime) -> None:
    """Enqueues a delivery for each webhook that subscribes to the job's new state.

    Webhooks of its user, and those of admins, which report the jobs of all.
    """
    for webhook in _list_concerned(session, job.user):
        if job.state in webhook.states:
            payload = {
                "type": f"job.{job.state}",
                "timestamp": now.isoformat(),
                "data": describe_job(job),
            }
            deliveries.enqueue(session, webhook, payload, now=now)


def _list_concerned(session: Session, user: str) -> Sequence[WebhookRow]:
    """Read once in a transaction, which may change the state of many jobs."""
    known: dict[str, Sequence[WebhookRow]] = session.info.setdefault("concerned_webhooks", {})
    if user not in known:
        admins = select(PersonRow.name).where(PersonRow.role == Role.ADMIN)
        concerned = or_(WebhookRow.user == user, WebhookRow.user.in_(admins))
        known[user] = session.scalars(select(WebhookRow).where(concerned)).all()
    return known[user]


def enqueue_ping(session: Session, webhook_id: str, *, now: datetime) -> DeliveryRow:
    """Enqueues a test delivery."""
    payload = {"type": "ping", "timestamp": now.isoformat(), "data": {}}
    return deliveries.enqueue(session, find_webhook(session, webhook_id), payload, now=now)
